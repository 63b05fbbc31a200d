"""The bundle a job leaves, and its reader."""
