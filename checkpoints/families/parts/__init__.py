"""What families are made of: UNET, text encoders, VAE, noise schedule; each with both layouts' names next to its shapes."""
