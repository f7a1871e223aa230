"""Breaks everything around the worker at random and accounts for every job afterwards."""
