"""A factored layer takes the place of the old one: everywhere, with its hooks, or says why not."""

import functools
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import cpnb
from cpnb.layers.cp import CPConv2d
from cpnb.layers.jaderberg import VerticalHorizontal
from cpnb.layers.replacing import multiplies

pytestmark = pytest.mark.filterwarnings("ignore:layer .* at rank")
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions, of which the second one is reached in various ways."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return self.b(self.a(x))


class List(Net):
    def __init__(self):
        super().__init__()
        self.stack = [self.a, self.b]

    def forward(self, x):
        return self.stack[1](self.stack[0](x))


class Nested(Net):
    def __init__(self):
        super().__init__()
        self.table = {"late": ({"b": [self.b]},)}

    def forward(self, x):
        return self.table["late"][0]["b"][0](self.a(x))


class Hidden(Net):
    def __init__(self):
        super().__init__()
        self.__dict__["behind"] = self.b

    def forward(self, x):
        return self.behind(self.a(x))


class Helper(Net):
    def __init__(self):
        super().__init__()
        self.helper = Holder(self.b)

    def forward(self, x):
        return self.helper.layer(self.a(x))


class Holder:
    """No module, and nothing that a search of plain containers would look into."""

    def __init__(self, layer):
        self.layer = layer


class Bound(Net):
    def __init__(self):
        super().__init__()
        self.run, self.part = self.b.__call__, functools.partial(self.a)

    def forward(self, x):
        return self.run(self.part(x))


class Shared(Net):
    def __init__(self):
        super().__init__()
        self.c = self.b
        self.more = nn.ModuleList([self.b, nn.ReLU()])

    def forward(self, x):
        return self.more[0](self.c(self.b(self.a(x))))


class Direct(Net):
    def forward(self, x):
        return self.b.forward(self.a(x))


class Lambda(Net):
    def __init__(self):
        super().__init__()
        self.f = lambda x: self.b(self.a(x))

    def forward(self, x):
        return self.f(x)


class Functional(Net):
    def forward(self, x):
        return F.conv2d(self.a(x), self.b.weight, self.b.bias, padding=1)


REACHED = [Net, List, Nested, Hidden, Helper, Bound, Shared, Direct]


@pytest.mark.parametrize("kind", REACHED)
@pytest.mark.parametrize("example", [None, X], ids=["", "example"])
def test_every_way_to_the_layer_leads_to_the_new_one(kind, example):
    net = kind()
    small = cpnb.decompose(net, {"b": 2}, "jaderberg", example=example)
    rebuilt = kind()
    rebuilt.load_state_dict(net.state_dict())
    with torch.no_grad():
        rebuilt.b.weight.copy_(small.b.to_conv().weight)
    torch.testing.assert_close(small(X), rebuilt(X))
    assert not torch.allclose(small(X), net(X), atol=1e-3)
    old = {id(module) for module in net.modules()}
    assert isinstance(net.b, nn.Conv2d) and not old & {id(module) for module in small.modules()}


@pytest.mark.parametrize("kind", [Net, List, Nested, Hidden, Helper, Bound, Shared])
def test_multiplies_are_those_of_what_runs(kind):
    net = kind()
    small, calls = cpnb.decompose(net, {"b": 1}, "jaderberg"), 3 if kind is Shared else 1
    saved = cpnb.count_multiplies(net, X) - cpnb.count_multiplies(small, X)
    assert saved == 64 * calls * (81 - 18)


def test_a_shared_layer_is_one_layer_still_and_named_once():
    net = Shared()
    small = cpnb.decompose(net, {"c": 2})
    assert small.b is small.c is small.more[0] and isinstance(small.b, CPConv2d)
    with pytest.raises(ValueError, match="ranks must name each layer once, got 'b' and 'more.0'"):
        cpnb.decompose(net, {"b": 2, "more.0": 3})


def test_a_function_that_holds_the_model_is_refused():
    with pytest.raises(ValueError, match="'f' is a function that holds 'the model', and in a copy"):
        cpnb.decompose(Lambda(), {"b": 2})
    with pytest.raises(ValueError, match="copy of it still calls 'a' of the model given; make"):
        cpnb.decompose(Lambda(), {"b": 2}, example=X)
    net = Net()
    net.forward = functools.wraps(net.forward)(lambda *args, run=net.forward: run(*args))
    with pytest.raises(ValueError, match="'forward' is a function that holds 'the model'"):
        cpnb.decompose(net, {"b": 2})
    net = Net()
    net.tell = lambda: net.a  # the example shows that it does no harm
    assert isinstance(cpnb.decompose(net, {"b": 2}, example=X).b, CPConv2d)


@pytest.mark.filterwarnings("ignore:products that are not counted")
def test_an_example_shows_that_the_layer_is_called():
    net = Functional()
    with pytest.raises(ValueError, match="layer 'b' is never called when the model runs on exampl"):
        cpnb.decompose(net, {"a": 2, "b": 2}, example=X)
    small = cpnb.decompose(net, {"b": 9}, "jaderberg")  # its weight is rebuilt: right, not fast
    torch.testing.assert_close(small(X), net(X), rtol=1e-4, atol=1e-5)
    assert cpnb.count_multiplies(small, X) == cpnb.count_multiplies(net, X)
    net = Net().train()
    assert cpnb.decompose(net, {"b": 2}, example={"x": X}).training
    assert cpnb.decompose(net, {"b": 2}, example=(X,)).b.training
    assert "forward" not in vars(cpnb.decompose(net, {"b": 2}, example=X[:0]).b)
    with pytest.raises(ValueError, match="example must be what Net takes, a tensor.*RuntimeError"):
        cpnb.decompose(net, {"b": 2}, example=X[:, :1])
    assert not net.b._forward_pre_hooks


def test_layers_that_a_branch_leaves_out_are_told():
    class Branch(Net):
        def forward(self, x):
            return self.a(x) if len(x) < 9 else self.b(x)

    assert isinstance(cpnb.decompose(Branch(), {"a": 2}, example=X).a, CPConv2d)
    with pytest.raises(ValueError, match="layer 'b' is never called"):
        cpnb.decompose(Branch(), {"b": 2}, example=X)


def test_graph_and_compiled_modules_are_followed():
    traced = torch.fx.symbolic_trace(Net())
    small = cpnb.decompose(traced, {"b": 9}, "jaderberg", example=X)
    torch.testing.assert_close(small(X), traced(X), rtol=1e-4, atol=1e-5)
    assert isinstance(small.b, VerticalHorizontal)
    compiled = torch.compile(Net(), backend="eager")
    compiled(X)
    small = cpnb.decompose(compiled, {"_orig_mod.b": 1}, "jaderberg")
    torch.testing.assert_close(small(X), small._orig_mod(X))
    assert not torch.allclose(small(X), compiled(X), atol=1e-3)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_layer_is_refused_by_its_name():
    with pytest.raises(TypeError, match="got torch.jit._script.RecursiveScriptModule"):
        cpnb.decompose(torch.jit.script(Net()), {"b": 2})
    with pytest.raises(TypeError, match="model must be an nn.Module, got dict"):
        cpnb.decompose({}, {"b": 2})


# Weights that two layers share


def test_shared_weights_are_told_with_both_names():
    net = Net()
    net.b.weight = net.a.weight
    with pytest.warns(UserWarning, match="layer 'b' shares its weight with 'a.weight', which will"):
        small = cpnb.decompose(net, {"b": 9}, "jaderberg")
    assert torch.equal(small.a.weight, net.a.weight) and small.a.weight is not net.a.weight
    torch.testing.assert_close(small(X), net(X), rtol=1e-4, atol=1e-5)
    net = Net()
    net.kept, net.own = [net.b.weight], nn.ParameterList([net.b.bias])
    with pytest.warns(UserWarning) as told:
        cpnb.decompose(net, {"b": 2})
    messages = " ".join(str(w.message) for w in told)
    assert "shares its weight with 'kept'" in messages
    assert "shares its bias with 'own.0'" in messages


def test_a_layer_by_itself_gives_no_warning(recwarn):
    cpnb.decompose(Shared(), {"b": 1}, "jaderberg", example=X)
    assert not recwarn


# Hooks


def test_hooks_move_along():
    net, seen = Net(), []
    net.b.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    net.b.register_forward_hook(lambda module, args, kwargs, out: out * 3, with_kwargs=True)
    net.b.register_full_backward_hook(lambda module, inputs, outputs: seen.append(len(inputs)))
    net.b.register_full_backward_pre_hook(lambda module, outputs: seen.append("before"))
    small = cpnb.decompose(net, {"b": 9}, "jaderberg")
    torch.testing.assert_close(small(X), net(X), rtol=1e-4, atol=1e-5)
    small(X).sum().backward()
    assert seen == ["before", 1]


def test_a_hook_that_is_a_method_is_the_new_models():
    class Listening(Net):
        def __init__(self):
            super().__init__()
            self.heard = 0
            self.b.register_forward_hook(self.hear)

        def hear(self, module, args, out):
            self.heard += 1

    net = Listening()
    small = cpnb.decompose(net, {"b": 2})
    small(X)
    assert (small.heard, net.heard) == (1, 0)


def test_hooks_without_a_meaning_are_named():
    net = Net()
    net.b.register_state_dict_post_hook(lambda *args: None)
    net.b.register_load_state_dict_post_hook(lambda *args: None)
    net.a.weight.register_hook(lambda grad: grad * 0)
    with pytest.warns(UserWarning) as told:
        small = cpnb.decompose(net, {"b": 2})
    messages = " ".join(str(w.message) for w in told)
    assert "hooks on parameters are not copied: those of a.weight; register them anew" in messages
    assert "layer 'b': _state_dict_hooks, _load_state_dict_post_hooks cannot move al" in messages
    assert all(w.filename == __file__ for w in told)
    assert not small.b._state_dict_hooks
    small.load_state_dict(small.state_dict())
    net = Net()
    net.b.register_backward_hook(lambda module, inputs, outputs: None)
    with pytest.warns(UserWarning, match=r"_backward_hooks \(not full\) cannot move along to a"):
        small = cpnb.decompose(net, {"b": 2})
    small(X).sum().backward()


def test_a_hook_that_holds_the_given_model_is_told():
    net = Net()
    net.a.register_forward_hook(lambda module, args, out: net.b and None)
    with pytest.warns(UserWarning, match="'a._forward_hooks' is a function that holds 'the mod"):
        cpnb.decompose(net, {"b": 2})


# Copies


class Locked(Net):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Keeping(Net):
    def __init__(self):
        super().__init__()
        self.sub = nn.Sequential(nn.ReLU())
        self.sub[0].kept = [self.a(X)]
        self.stack = [self.sub]


UNCOPIED = [
    (Locked, "got 'lock', a _thread.lock; set it to None first"),
    (Keeping, "got 'sub.0.kept', a list; set it to None first"),
]


@pytest.mark.parametrize("kind,message", UNCOPIED)
def test_what_cannot_be_copied_is_named(kind, message):
    with pytest.raises(TypeError, match=f"must be one that copy.deepcopy can copy, {message}"):
        cpnb.decompose(kind(), {"b": 2})


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_what_ends_a_hook_elsewhere_is_said():
    net = Net()
    prune.l1_unstructured(net.a, "weight", amount=0.3)
    with pytest.raises(TypeError, match="'a.weight', which a hook computes; call .*prune.remove"):
        cpnb.decompose(net, {"b": 2})
    net = nn.Sequential(Net())
    nn.utils.weight_norm(net[0].a)
    with pytest.raises(TypeError, match="'0.a.weight', .* torch.nn.utils.remove_weight_norm on '0"):
        cpnb.decompose(net, {"0.b": 2})
    net = Net()
    net.last = net.a(X)
    with pytest.raises(TypeError, match="'last', a tensor with a history; detach it, or set it to"):
        cpnb.decompose(net, {"b": 2})


def test_what_is_made_in_inference_mode_can_be_trained():
    net = Net()
    with torch.inference_mode():
        small = cpnb.decompose(net, {"b": 2})
    small(X).sum().backward()
    assert small.b.reduce.weight.grad is not None and small.a.weight.grad is not None


# Costs


@pytest.mark.parametrize(
    "layer,rank,method,message",
    [
        (nn.Conv2d(64, 64, 1), 48, "als", "takes 6,240 multiplies .* more than the 4,096 of"),
        (nn.Conv2d(4, 4, 3, groups=4), 2, "nls", "takes 64 multiplies .* more than the 36 of"),
        (nn.Conv2d(4, 8, 3, stride=2), 9, "nls", "takes 297 multiplies .* more than the 288 of"),
        (nn.Conv2d(4, 6, 3), (4, 6), "tucker", r"\(4, 6\) takes 268 .* than the 216 of the la"),
        (nn.Linear(10, 10), 6, "svd", "takes 120 multiplies an output position, more than the 100"),
    ],
)
def test_a_rank_that_costs_more_is_told_with_both_counts(layer, rank, method, message):
    options = {"n_iter_max": 2} if method in ("als", "nls") else {}
    with pytest.warns(UserWarning, match=f"layer '0' at rank .*{message}"):
        small = cpnb.decompose(nn.Sequential(layer), {"0": rank}, method, **options)
    assert multiplies(small[0]) > multiplies(layer)


def test_a_rank_that_saves_is_not_worth_a_word(recwarn):
    for conv, rank in ((nn.Conv2d(4, 4, 3, groups=4), 1), (nn.Conv2d(4, 8, 3, stride=2), 8)):
        small = cpnb.decompose(nn.Sequential(conv), {"0": rank}, n_iter_max=2)
        assert multiplies(small[0]) <= multiplies(conv)
    assert not recwarn


def test_multiplies_for_an_output_position_are_those_counted():
    conv = nn.Conv2d(8, 16, (5, 3), stride=(2, 3), padding=(2, 1))
    x = torch.randn(1, 8, 12, 18)  # maps of 12×18 become 6×6
    for method, rank in (("als", 2), ("jaderberg", 2), ("tucker", (3, 4)), ("biclustering", 1)):
        layer = cpnb.decompose(nn.Sequential(conv), {"0": rank}, method)[0]
        assert multiplies(layer) * 36 == cpnb.count_multiplies(layer, x)
    assert multiplies(conv) * 36 == cpnb.count_multiplies(conv, x)
