"""Rewards: where scores come from."""
