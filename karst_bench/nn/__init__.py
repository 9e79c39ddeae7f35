"""Pure tensor maths that two or more methods use; knows neither timm nor Hydra."""
