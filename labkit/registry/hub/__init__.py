"""`labkit hub`: a stand-in for Docker Hub, for classes and tests without the internet, made of Debian's packages."""
