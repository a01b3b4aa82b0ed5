"""Why a learning rate of 1e-10? The released nets sum the loss over pixels: it is 2.5e-5 for the mean."""

from minifcn.training import regimes

print(f"{regimes.lr_of_mean(1e-10, 500 * 500):.1e}")
print(f"{regimes.equal_momentum(0.9, images=20, new_images=1):.4f}")
heavy = regimes.heavy(images=100_000, lr=1e-10)
print(heavy.steps, heavy.batch_size, heavy.momentum, heavy.reduction)
