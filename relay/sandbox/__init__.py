"""A local Dub, and the demo's sample site."""
