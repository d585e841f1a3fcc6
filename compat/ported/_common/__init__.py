"""Modules that only programs written for Ray import."""
