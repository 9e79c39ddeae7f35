"""Methods onto timm: the only room with timm's names."""
