"""From failed episodes to proposed changes of a skill bank."""
