"""The finished run and the T-GEM of the runtime's tests, to be broken."""

from runtime.conftest import make, own_policy, results, saved  # noqa: F401
