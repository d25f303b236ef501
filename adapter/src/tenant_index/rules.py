"""What may be recorded: which functions, pragmas and tables give the same result in the database as here."""

import re

# ---- tables ----

# The contract's own tables; the app has no business in them.
OWN_TABLE_PREFIX = "_tenant_init_"
# Semantic search stays on this machine: its extension does not exist in the database, and its rows can be computed again.
LOCAL_TABLE_PREFIX = "search_vector_"
# What ANALYZE found out about this file; the planner of the database has its own.
STATISTICS_PREFIX = "sqlite_stat"
# Modules of virtual tables that SQLite and libSQL are both built with.
REPLAYABLE_MODULES = frozenset({"fts3", "fts4", "fts5", "fts5vocab", "rtree", "rtree_i32"})
# SQLite's own bookkeeping: its changes follow from the statement and are no target of it.
SCHEMA_TABLES = frozenset({"sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema"})
# Readable like tables, but about this file or this library.
_ABOUT_THIS_FILE = re.compile(r"pragma_|sqlite_(?!sequence$)|dbstat$|bytecode$|tables_used$")


def is_local(table: str) -> bool:
    return table.startswith((LOCAL_TABLE_PREFIX, STATISTICS_PREFIX))


def is_own(table: str) -> bool:
    return table.startswith(OWN_TABLE_PREFIX)


def differs_elsewhere(table: str) -> bool:
    """Whether a read of it may give something else in the database."""
    return is_local(table) or is_own(table) or _ABOUT_THIS_FILE.match(table) is not None


# ---- functions ----

# Same arguments, same result, in SQLite and in libSQL. Left out on purpose: whatever asks a clock, a generator, the
# connection or the library, and the functions that leave rounding to the machine's mathematics library (exp, sin, ...).
DETERMINISTIC = frozenset(
    """
    -> ->> abs avg bm25 ceil ceiling char coalesce concat concat_ws count cume_dist dense_rank first_value floor format
    glob group_concat hex highlight if ifnull iif instr json json_array json_array_length json_error_position
    json_extract json_group_array json_group_object json_insert json_object json_patch json_pretty json_quote
    json_remove json_replace json_set json_type json_valid jsonb jsonb_array jsonb_extract jsonb_group_array
    jsonb_group_object jsonb_insert jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set lag last_value lead
    length like likelihood likely lower ltrim match max median min mod nth_value ntile nullif octet_length percent_rank
    printf quote rank replace round row_number rtrim sign snippet sqrt string_agg substr substring sum total trim trunc
    typeof unhex unicode unistr unistr_quote unlikely upper zeroblob
    """.split()
)
# Deterministic unless their time is 'now' or their zone the machine's; strftime is not in here: with one argument it
# means now, and the number of arguments cannot be seen.
DATE_FUNCTIONS = frozenset({"date", "time", "datetime", "julianday", "unixepoch", "timediff"})
CLOCK_WORDS = frozenset({"now", "localtime", "utc"})
# With which SQLite rewrites the schema in ALTER TABLE.
ALTER_FUNCTIONS = re.compile(r"sqlite_(rename|drop|add|find|fail)\w*$")

# ---- pragmas ----

# Settings that change what a write does, or contents of the file which no statement could bring to the database.
REFUSED_PRAGMAS = frozenset(
    """
    application_id case_sensitive_like count_changes defer_foreign_keys encoding ignore_check_constraints
    legacy_alter_table recursive_triggers reverse_unordered_selects schema_version user_version writable_schema
    """.split()
)
