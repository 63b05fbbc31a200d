"""`python -m bitsmith_api`: serve the API with the settings of the environment."""

from bitsmith_api.app import main

main()
