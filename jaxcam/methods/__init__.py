"""The methods: each a pure function, with an entry in `jaxcam.methods.registry.METHODS`."""

#: The method where none is named.
DEFAULT_METHOD = "lift_cam"
