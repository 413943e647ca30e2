"""InterCode-SQL: questions about databases, answered by queries."""
