"""Servers under load: Bitsmith's API and MLflow's, each behind the same few questions."""
