"""The training engine: a program that reads a JobSpec and leaves a bundle. It knows no database, queue or cluster."""
