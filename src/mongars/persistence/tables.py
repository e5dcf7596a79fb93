"""The tables of the newest schema revision, for queries; a test compares them with the migrations.

Migrations create the tables, and do not import this file. One index is not declared here, because only
PostgreSQL has it: the unique index on LOWER(username) of `user_accounts`.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    false,
    func,
    text,
)

from mongars.persistence.column_types import UtcDateTime, VectorJson

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = MetaData(naming_convention=NAMING)

_EMPTY_OBJECT = text("'{}'")
_EMPTY_TEXT = text("''")

conversation_history = Table(
    "conversation_history",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", String),
    Column("query", String),
    Column("response", String),
    Column("timestamp", UtcDateTime, nullable=False, server_default=func.now()),
    Column("vector", VectorJson),
    Column("session_id", String(200)),
    Column("expires_at", UtcDateTime),
    Index("idx_user_timestamp", "user_id", "timestamp"),
    Index("ix_conversation_history_user_id", "user_id"),
    Index("ix_conversation_history_timestamp", "timestamp"),
    Index("ix_conversation_history_user_session", "user_id", "session_id", "id"),
)

conversation_sessions = Table(
    "conversation_sessions",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("session_data", JSON),
    Column("last_active", UtcDateTime, server_default=func.now()),
)

user_preferences = Table(
    "user_preferences",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("interaction_style", JSON, nullable=False, server_default=_EMPTY_OBJECT),
    Column("preferred_topics", JSON, nullable=False, server_default=_EMPTY_OBJECT),
)

user_personality = Table(
    "user_personality",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", String, nullable=False),
    Column("traits", JSON, nullable=False, server_default=_EMPTY_OBJECT),
    Column("interaction_style", JSON, nullable=False, server_default=_EMPTY_OBJECT),
    Column("context_preferences", JSON, nullable=False, server_default=_EMPTY_OBJECT),
    Column("adaptation_rate", Float, server_default=text("0.1")),
    Column("confidence", Float, server_default=text("0.5")),
    Column("last_updated", UtcDateTime, server_default=func.now()),
    Index("ix_user_personality_user_id", "user_id", unique=True),
)

emotion_trends = Table(
    "emotion_trends",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", String),
    Column("emotion", String),
    Column("timestamp", UtcDateTime, server_default=func.now()),
)

interactions = Table(
    "interactions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", String, nullable=False),
    Column("session_id", String),
    Column("input_data", JSON, nullable=False, server_default=_EMPTY_OBJECT),
    Column("output_data", JSON, nullable=False, server_default=_EMPTY_OBJECT),
    Column("message", String, nullable=False, server_default=_EMPTY_TEXT),
    Column("response", String, nullable=False, server_default=_EMPTY_TEXT),
    Column("personality", JSON, nullable=False, server_default=_EMPTY_OBJECT),
    Column("context", JSON, nullable=False, server_default=_EMPTY_OBJECT),
    Column("meta_data", String),
    Column("confidence", Float),
    Column("processing_time", Float),
    Column("created_at", UtcDateTime, server_default=func.now()),
    Column("updated_at", UtcDateTime, server_default=func.now()),
    Index("idx_user_session_created", "user_id", "session_id", "created_at"),
    Index("ix_interactions_user_id", "user_id"),
    Index("ix_interactions_session_id", "session_id"),
    Index("ix_interactions_created_at", "created_at"),
)

user_accounts = Table(
    "user_accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("username", String(150), nullable=False),
    Column("password_hash", String(255), nullable=False),
    Column("is_admin", Boolean, nullable=False, server_default=false()),
    Column("created_at", UtcDateTime, nullable=False, server_default=func.now()),
    Column("updated_at", UtcDateTime, nullable=False, server_default=func.now()),
    Index("ix_user_accounts_username", "username", unique=True),
)

memory_entries = Table(
    "memory_entries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", String, nullable=False),
    Column("query", String, nullable=False),
    Column("response", String, nullable=False),
    Column("timestamp", UtcDateTime, nullable=False, server_default=func.now()),
    Column("ttl", UtcDateTime, nullable=False),
    Index("ix_memory_entries_user_id", "user_id"),
    Index("ix_memory_entries_user_ttl", "user_id", "ttl"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column(
        "username",
        String(150),
        ForeignKey("user_accounts.username", ondelete="CASCADE", onupdate="CASCADE"),
        nullable=False,
    ),
    Column("name", String(200), nullable=False),
    Column("secret_hash", String(64), nullable=False),
    Column("is_admin", Boolean, nullable=False, server_default=false()),
    Column("created_at", UtcDateTime, nullable=False, server_default=func.now()),
    Column("last_used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Index("ix_api_keys_username", "username"),
    Index("ix_api_keys_secret_hash", "secret_hash", unique=True),
)
