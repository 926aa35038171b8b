"""The embedded demo: digit scenes, the pretraining of the demo backbones, and rehearsal photographs."""
