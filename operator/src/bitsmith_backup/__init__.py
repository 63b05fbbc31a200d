"""Takes the whole installation to a folder, and back: every row of the database, every object of the store.

    FOLDER/objects/<key>            objects; those of earlier snapshots are not copied again: their keys never change
    FOLDER/snapshots/<time>/        complete once it is there: backup.json, tables/<name>.copy

The rows are one moment's (one transaction), and the objects come after them, so that whatever a row names is there.
Objects that nothing named at that moment come along and are the janitor's after a restore.
"""
