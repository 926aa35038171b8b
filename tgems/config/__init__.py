"""The configuration of a run as pydantic models, from which the JSON schema and configs/README.md are generated."""
