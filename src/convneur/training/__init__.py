"""The training loop, on Lightning; it knows neither tasks nor models."""
