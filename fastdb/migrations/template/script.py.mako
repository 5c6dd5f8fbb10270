<%
    import re

    # Those of several databases; of one alone there is just "upgrades".
    names = sorted(key[: -len("_upgrades")] for key in context.keys() if key.endswith("_upgrades"))
    functions = {name: re.sub(r"\W", "_", name) for name in names}
%>"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision: str = ${repr(up_revision)}
down_revision: str | Sequence[str] | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}

% if names:

def upgrade(engine_name: str) -> None:
    """Upgrade the schema of one of the databases."""
% for name, function in functions.items():
    if engine_name == ${repr(name)}:
        upgrade_${function}()
% endfor


def downgrade(engine_name: str) -> None:
    """Downgrade the schema of one of the databases."""
% for name, function in functions.items():
    if engine_name == ${repr(name)}:
        downgrade_${function}()
% endfor
% for name, function in functions.items():


def upgrade_${function}() -> None:
    """Upgrade the schema of ${repr(name)}."""
    ${context[f"{name}_upgrades"] or "pass"}


def downgrade_${function}() -> None:
    """Downgrade the schema of ${repr(name)}."""
    ${context[f"{name}_downgrades"] or "pass"}
% endfor
% else:

def upgrade() -> None:
    """Upgrade the schema."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Downgrade the schema."""
    ${downgrades if downgrades else "pass"}
% endif
