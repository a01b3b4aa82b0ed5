"""How do class weights act? A pixel of class c pulls w_c times as hard on the scores."""

import numpy as np

from minifcn import Tensor, ops

logits = Tensor(np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]), requires_grad=True)
target = np.array([0, 0, 0, 1])
for weight in (None, np.array([1.0, 3.0])):
    logits.zero_grad()
    ops.cross_entropy(logits, target, weight=weight).backward()
    print("pull on the rare class's score:", logits.grad[:, 1].sum().round(3))
