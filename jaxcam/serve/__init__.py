"""A page to try maps on, `jaxcam serve`: a photo in, maps, numbers and the code that makes them out."""
