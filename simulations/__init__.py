"""Many hospitals on one machine or a Ray cluster, running the code that is deployed."""
