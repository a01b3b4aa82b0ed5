"""What the graph keeps alive and for how long, and whose memory a gradient is."""

import gc
import weakref

import numpy as np
import pytest

from graphs import Identity, leaf
from minifcn import Function, Tensor, no_grad, ops
from planted.subjects import SUBJECTS


@pytest.fixture
def no_collector():
    """Without the cycle collector, what dies has died by reference counting."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def count(*kinds):
    # Not isinstance: it would ask a dead proxy, of which some library may have left one, for its class.
    return sum(issubclass(type(x), kinds) for x in gc.get_objects())


# --- life and death of what lies between -----------------------------------------------------------------------------


def small_net(x, w):
    hidden = ops.relu(x @ w)
    return (hidden * hidden + hidden.exp()).reshape(-1)[::2].mean()


def test_backward_leaves_no_function_no_tensor_and_no_array_between_loss_and_leaves(no_collector):
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0], [5.0, 6.0])
    arrays = []

    class Spy(Identity):
        def forward(self, a):
            kept = a.copy()
            arrays.append(weakref.ref(kept))
            self.save(kept)
            self.mine = np.ones(3)  # the user's own attribute
            arrays.append(weakref.ref(self.mine))
            return kept

        def backward(self, grad):
            return (grad * self.saved[0],)

    before = count(Tensor), count(Function)
    loss = small_net(Spy.apply(x), w)
    loss.backward()
    assert count(Tensor) == before[0] + 1  # the loss
    assert count(Function) == before[1] + 1  # its function, emptied
    assert vars(loss._creator) == {"released": True}
    assert [ref() for ref in arrays] == [None, None]


def test_backward_frees_function_by_function_while_it_runs(no_collector):
    saved, alive = [], []

    class Spy(Identity):
        def forward(self, a):
            kept = a.copy()
            self.save(kept)
            saved.append(weakref.ref(kept))
            return a + 0

        def backward(self, grad):
            alive.append(sum(ref() is not None for ref in saved))
            return (grad,)

    y = leaf(1.0)
    for _ in range(4):
        y = Spy.apply(y)
    y.backward()
    assert alive == [4, 3, 2, 1]


def test_without_grad_every_value_dies_when_the_last_variable_lets_go(no_collector):
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0], [5.0, 6.0])
    before = count(Tensor), count(Function)
    with no_grad():
        loss = small_net(x, w)
    assert (count(Tensor), count(Function)) == (before[0] + 1, before[1])
    assert loss._creator is None


def test_a_dropped_graph_dies_without_backward(no_collector):
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0], [5.0, 6.0])
    before = count(Tensor), count(Function)
    loss = small_net(x, w)
    assert count(Function) > before[1]
    del loss
    assert (count(Tensor), count(Function)) == before


def test_a_value_that_no_backward_needs_dies_at_once(no_collector):
    x = leaf(1.0)
    middle = x + 1.0
    died = weakref.ref(middle.data)
    y = middle + 2.0
    del middle
    assert died() is None
    y.backward()


def test_a_retained_gradient_is_kept_on_the_tensor_that_asked():
    x = leaf(1.0, 2.0)
    asked, silent = x * 2.0, x * 3.0
    asked.retain_grad()
    (asked * silent).sum().backward()  # 6x²
    assert asked.grad.tolist() == [3.0, 6.0]
    assert silent.grad is None
    assert x.grad.tolist() == [12.0, 24.0]


def test_asking_for_a_gradient_keeps_no_tensor_alive(no_collector):
    x = leaf(1.0)
    asked = x * 2.0
    asked.retain_grad()
    loss = asked.sum()
    gone = weakref.ref(asked)
    del asked
    assert gone() is None
    loss.backward()
    assert x.grad.tolist() == [2.0]


def test_a_leaf_needs_not_ask_for_its_gradient():
    x = leaf(1.0)
    x.retain_grad()
    x.sum().backward()
    assert x.grad.tolist() == [1.0]


def test_a_chain_of_a_hundred_thousand_ops_can_be_dropped_without_backward(no_collector):
    y = leaf(1.0)
    before = count(Function)
    for _ in range(100_000):
        y = -y
    del y
    assert count(Function) == before


# --- whose memory a gradient is --------------------------------------------------------------------------------------


class Shares(Function):
    """A backward that hands out what it, or somebody else, still holds."""

    cache = np.array([1.0, 2.0, 3.0, 4.0])

    def forward(self, a, b, *, how):
        self.save(a, b)
        self.how = how
        return a + b

    def backward(self, grad):
        a, b = self.saved
        return {
            "the cotangent": (grad, grad),
            "views of the cotangent": (grad[::-1][::-1], grad[...]),
            "its cache": (self.cache, self.cache),
            "views of its cache": (self.cache[:], self.cache[::-1]),
            "its inputs": (b, a),
            "a read-only broadcast": (np.broadcast_to(grad[:1], (4,)),) * 2,
        }[self.how]


HOW = [
    "the cotangent",
    "views of the cotangent",
    "its cache",
    "views of its cache",
    "its inputs",
    "a read-only broadcast",
]


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("how", HOW)
def test_no_gradient_shares_memory_with_anything(how, rounds):
    a, b = leaf(1.0, 2.0, 3.0, 4.0), leaf(5.0, 6.0, 7.0, 8.0)
    cotangent = np.array([0.1, 0.2, 0.3, 0.4])
    given = {"a": a.data.copy(), "b": b.data.copy(), "cotangent": cotangent.copy(), "cache": Shares.cache.copy()}
    for _ in range(rounds):
        y = Shares.apply(a, b, how=how)
        y.retain_grad()
        y.backward(cotangent)
    grads = [a.grad, b.grad, y.grad]
    held = [a.data, b.data, y.data, cotangent, Shares.cache]
    for i, grad in enumerate(grads):
        assert not any(np.shares_memory(grad, other) for other in held + grads[i + 1 :])
        grad[...] = -1.0  # it is ours to write to
    now = {"a": a.data, "b": b.data, "cotangent": cotangent, "cache": Shares.cache}
    for name, before in given.items():
        np.testing.assert_array_equal(now[name], before, err_msg=name)


@pytest.mark.parametrize("uses", [2, 3, 4])
@pytest.mark.parametrize("how", HOW)
def test_sums_of_shared_gradients_write_into_none_of_them(how, uses):
    a, b = leaf(1.0, 2.0, 3.0, 4.0), leaf(5.0, 6.0, 7.0, 8.0)
    cache = Shares.cache.copy()
    y = Shares.apply(a, b, how=how)
    for _ in range(uses - 1):
        y = y + Shares.apply(a, b, how=how)
    cotangent = np.array([0.1, 0.2, 0.3, 0.4])
    y.backward(cotangent)
    once = {
        "its cache": (cache, cache),
        "views of its cache": (cache, cache[::-1]),
        "its inputs": (b.data, a.data),
        "a read-only broadcast": (np.full(4, 0.1), np.full(4, 0.1)),
    }.get(how, (cotangent, cotangent))
    np.testing.assert_allclose(a.grad, uses * once[0], rtol=1e-15)
    np.testing.assert_allclose(b.grad, uses * once[1], rtol=1e-15)
    assert cotangent.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert (Shares.cache == cache).all()


OPS_THAT_PASS_A_GRADIENT_ON = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "reshape": lambda x, y: (x + y).reshape(2, 2),
    "permute": lambda x, y: ops.permute(x + y, 0),
    "sum": lambda x, y: x.sum() + y.sum(),
    "cat": lambda x, y: ops.cat([x, y]),
    "getitem": lambda x, y: x[:] + y[::-1],
    "conv2d": lambda x, y: ops.conv2d(x.reshape(1, 1, 2, 2), y.reshape(1, 1, 2, 2), padding=1),
}


@pytest.mark.parametrize("name", OPS_THAT_PASS_A_GRADIENT_ON)
def test_no_gradient_of_an_op_shares_memory_with_anything(name):
    x, y = leaf(1.0, 2.0, 3.0, 4.0), leaf(5.0, 6.0, 7.0, 8.0)
    out = OPS_THAT_PASS_A_GRADIENT_ON[name](x, y)
    cotangent = np.ones(out.shape)
    out.backward(cotangent)
    for one, others in ((x.grad, [y.grad]), (y.grad, [x.grad])):
        assert one.flags.writeable
        assert not any(np.shares_memory(one, other) for other in [*others, x.data, y.data, cotangent, out.data])


def test_a_fresh_gradient_becomes_the_leafs_own_without_a_copy():
    made = []

    class Fresh(Identity):
        fresh_gradients = True

        def backward(self, grad):
            made.append(grad * 2)
            return (made[-1],)

    x = leaf(1.0)
    Fresh.apply(x).backward()
    assert x.grad is made[0]


@pytest.mark.parametrize(
    "name",
    ["conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "crop", "local_response_norm", "cross_entropy"],
)
def test_what_a_kernel_makes_for_a_leaf_is_not_copied(name, monkeypatch):
    """The largest weight of VGG16 has 411 MB."""
    function, call, inputs = (getattr(SUBJECTS[name], field) for field in ("function", "call", "inputs"))
    made, backward = [], function.backward
    monkeypatch.setattr(function, "backward", lambda self, grad: made.append(backward(self, grad)) or made[-1])
    leaves = [Tensor(x, requires_grad=True) for x in inputs]
    call(*leaves).sum().backward()
    assert all(x.grad is grad for x, grad in zip(leaves, made[0], strict=False))
