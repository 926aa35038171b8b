"""The finished run, the T-GEM and the pictures of the runtime's tests, to be broken or used on a broken system."""

from runtime.conftest import make, own_policy, pictures, results, saved  # noqa: F401
