"""The cloud as an upgrade of the local answer, as far as the user's policy allows it."""
