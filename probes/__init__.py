"""The laboratory: everything that measures one model. Import its modules by name, `from probes.site import Site`."""
