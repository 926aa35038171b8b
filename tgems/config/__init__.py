"""The typed configuration of a run. Its models are the only definition: the schema and configs/README.md follow."""
