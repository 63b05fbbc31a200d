from bitsmith_client.cli import app

app()
