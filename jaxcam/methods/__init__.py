"""The methods: each a pure function, with an entry in `jaxcam.methods.registry.METHODS`."""

#: The method where none is named; and what `explain` takes in its place at a layer whose activations are negative as
#: well, chosen by measurement (`benchmarks/results/forms.md`).
DEFAULT_METHOD = "lift_cam"
SIGNED_METHOD = "hires_lift_cam"
