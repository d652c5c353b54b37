"""Training: synthetic facts, and the recipe of the bundled LM."""
