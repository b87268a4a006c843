"""The lab: ablations, and tasks whose answer is far away in the image."""
