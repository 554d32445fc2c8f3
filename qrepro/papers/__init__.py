"""The papers' printed tables and claims, and their regeneration from runs."""
