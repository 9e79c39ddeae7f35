"""How the two small backbones in karst_bench/weights were pre-trained: images, pretext scenes, training loop."""
