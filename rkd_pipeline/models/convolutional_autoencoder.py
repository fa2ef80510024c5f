"""The convolutional autoencoder of Bergmann et al. (2018), table 1: strided convolutions to a code, and back."""

from collections.abc import Sequence

from torch import Tensor, nn

SLOPE = 0.2  # of the leaky ReLU
_HALVINGS = 4  # of the side, on the way to the code

# Kernel, stride and channels (in widths of the first layer), from image to code; the code's own layer comes last.
ENCODER = ((4, 2, 1), (4, 2, 1), (3, 1, 1), (4, 2, 2), (3, 1, 2), (4, 2, 4), (3, 1, 2), (3, 1, 1))
# And back, after the layer that opens the code; the image's own layer comes last. Stride 2 doubles the side.
DECODER = ((3, 1, 2), (3, 1, 4), (4, 2, 2), (3, 1, 2), (4, 2, 1), (3, 1, 1), (4, 2, 1))


class ConvolutionalAutoencoder(nn.Module):
    """Rebuilds grey squares ``(N, 1, side, side)``, in [0, 1], from codes of ``latent`` numbers.

    About 0.24 GFLOP for a square of 128 pixels at the paper's width of 32. Raises ``ValueError`` for a side that cannot
    be halved four times.
    """

    def __init__(self, side: int, latent: int = 100, width: int = 32) -> None:
        super().__init__()
        if side % 2**_HALVINGS:
            raise ValueError(f"an autoencoder's squares have a side that is a multiple of 16, not {side}")
        coarse = side // 2**_HALVINGS
        self.encoder = nn.Sequential(*_layers(1, ENCODER, width), nn.Conv2d(width, latent, coarse))
        opened = (nn.ConvTranspose2d(latent, width, coarse), nn.LeakyReLU(SLOPE))
        image = nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1)
        self.decoder = nn.Sequential(*opened, *_layers(width, DECODER, width, opening=True), image)

    def forward(self, squares: Tensor) -> Tensor:
        """Reconstructions, of the same shape; not bounded."""
        rebuilt: Tensor = self.decoder(self.encoder(squares))
        return rebuilt


def _layers(
    channels: int, table: Sequence[tuple[int, int, int]], width: int, *, opening: bool = False
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for kernel, stride, widths in table:
        kind = nn.ConvTranspose2d if opening and stride == 2 else nn.Conv2d
        layers += [kind(channels, widths * width, kernel, stride=stride, padding=1), nn.LeakyReLU(SLOPE)]
        channels = widths * width
    return layers
