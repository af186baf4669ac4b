"""The list of packages; everything else is in pyproject.toml, which cannot find a package that lies elsewhere."""

from setuptools import find_packages, setup

# converters/ lies at the top level, because it knows other libraries' file formats and the rest does not.
setup(
    packages=[*find_packages(include=["jaxcam", "jaxcam.*"]), "jaxcam.converters"],
    package_dir={"jaxcam": "jaxcam", "jaxcam.converters": "converters"},
)
