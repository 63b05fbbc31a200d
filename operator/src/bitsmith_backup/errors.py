"""What stops a backup or a restore; the message says what to do."""


class BackupFailed(Exception):
    pass
