"""Records what an app writes into its SQLite file `memory.db`, so that the same statements can be run elsewhere.

`sqlite3.connect` returns a `RecordingConnection` for that one file. Right after a write statement has run, the statement
and its values go into the table `_tenant_init_outbox`, on the same connection and so in the same transaction: whatever
commits or rolls back the one, does it to the other. The format is the contract in docs/INDEX.md.

    connect     which file it is, the replacement of `sqlite3.connect`
    connection  what a connection must not do, or must remember
    cursor      runs a statement and has it recorded
    returning   rows of a statement whose transaction has ended already
    outbox      writes the outbox, remembers what is known about statements
    classify    what a statement does: SQLite's own word for it (EXPLAIN and the authorizer)
    rules       what may be recorded: functions, pragmas, tables
    sqltext     the little that has to be read from the text itself
    values      values as SQLite binds them, and as JSON
    warm        loads the app's libraries early, and waits for tenant-init's word
    autoload    imported when the interpreter starts, by tenant_index.pth
"""
