"""A page on which people look at what models do with their images; `convneur.app.page` alone needs gradio."""
