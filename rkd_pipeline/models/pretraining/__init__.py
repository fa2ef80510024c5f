"""How the embedded teacher came to be: a ResNet-18 pretrained on images made by formula.

``python -m rkd_pipeline.models.pretraining`` draws the images, trains, and writes the weights that
``rkd_pipeline/models/embedded_teacher.safetensors`` holds. Nothing else imports this package.
"""
