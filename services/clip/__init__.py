"""Rewards of a CLIP model: CLIPScore, PickScore and an aesthetic head."""
