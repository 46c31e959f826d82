"""Every family of torchvision's and timm's image networks encodes frames; every head joins them, minds padding, and sees order
or does not, as it says; chunks, state dicts, splitters, bf16 and channels-last change nothing they should not.
"""

import copy, pickle, warnings
from functools import partial

import pytest, torch, torchvision
from torch import nn
from fastai.layers import SimpleCNN

from fastai_seq.core import ImageTuple, TensorVideo
from fastai_seq.models.encoder import FrameEncoder
from fastai_seq.models.heads import Head, head_classes
from fastai_seq.models.seqmodel import SeqModel, create_seq_model, seq_splitter
from fastai_seq.walkthrough import RNNModel, SimpleModel, rnnmodel_splitter, simple_splitter

features = dict(
    alexnet=256,
    vgg11_bn=512,
    resnet18=512,
    resnet50=2048,
    resnext50_32x4d=2048,
    wide_resnet50_2=2048,
    squeezenet1_1=512,
    densenet121=1024,
    inception_v3=2048,
    googlenet=1024,
    shufflenet_v2_x0_5=1024,
    mobilenet_v2=1280,
    mobilenet_v3_small=576,
    mnasnet0_5=1280,
    efficientnet_b0=1280,
    efficientnet_v2_s=1280,
    regnet_y_400mf=440,
    vit_b_32=768,
    convnext_tiny=768,
    swin_t=768,
    swin_v2_t=768,
    maxvit_t=512,
)

def check_groups(model):
    "Each parameter is in exactly one of three groups, none of which is empty; the first two are the encoder's, in order"
    groups = seq_splitter(model)
    ids = [id(p) for g in groups for p in g]
    assert (
        len(groups) == 3
        and all(groups)
        and len(ids) == len(set(ids))
        and set(ids) == {id(p) for p in model.parameters()}
    )
    assert {*ids[:len(groups[0])+len(groups[1])]} == {id(p) for p in model.encoder.parameters()}
    n = [sum(1 for _ in g) for g in groups]
    assert .2 < n[0]/(n[0]+n[1]) < .8

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', features)
@pytest.mark.slow
def test_encoder_of_every_family(name):
    model = SimpleModel(torchvision.models.get_model_builder(name), n_out=3, pretrained=False)
    assert model.encoder.n_features == features[name]
    size = 224 if name in ('vit_b_32', 'maxvit_t') else 299 if name == 'inception_v3' else 96
    x = torch.rand(1, 2, 3, size, size)
    assert model.train()(torch.cat([x, x])).shape == (2, 3)   # auxiliary classifiers answer in training only
    maps = model.eval().encoder(x[0])
    assert maps.ndim == 4 and maps.shape[:2] == (2, features[name])
    assert sum(len(g) for g in simple_splitter(model)) == len(list(model.parameters()))
    check_groups(model)

timm_features = dict(
    resnet18=512,
    mobilenetv3_small_050=288,
    efficientnet_b0=1280,
    convnext_atto=320,
    vit_tiny_patch16_224=192,
    swin_tiny_patch4_window7_224=768,
    regnety_002=368,
    levit_128s=384,
    mobilevit_xxs=320,
)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', timm_features)
@pytest.mark.slow
def test_encoder_of_timms_families(name):
    pytest.importorskip('timm')
    model = create_seq_model(name, 3, 'gru', pretrained=False, hidden_size=8)
    assert model.encoder.n_features == timm_features[name]
    size = 224 if name.endswith('_224') or name.startswith('levit') else 64
    x = torch.rand(2, 1, 3, size, size)
    model.train()(x).sum().backward()
    unused = [n for n,p in model.named_parameters() if p.grad is None]
    assert not unused, unused                                  # nothing is kept that only the classifier used
    check_groups(model)

def test_timm_encoder_sees_what_the_network_sees():
    timm = pytest.importorskip('timm')
    x = torch.rand(2, 3, 32, 32)
    for name in ('vit_tiny_patch16_224', 'resnet18'):
        make = partial(timm.create_model, name, **(dict(img_size=32, depth=2) if 'vit' in name else {}))
        torch.manual_seed(0)
        net = make().eval()
        torch.manual_seed(0)
        enc = FrameEncoder(make, pretrained=False).eval()
        assert torch.allclose(net.get_classifier()(enc(x).mean((2, 3))), net(x), atol=1e-5)

def test_timm_is_an_extra(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'timm', None)
    with pytest.raises(
        ImportError, match="arch='resnet18', .* needs timm, which is not installed: pip install"
    ):
        FrameEncoder('resnet18')

def test_unknown_names_list_what_there_is():
    pytest.importorskip('timm')
    with pytest.raises(ValueError, match='resnet18.*list_models'): FrameEncoder('resnet_18')
    with pytest.raises(
        ValueError,
        match=(
            "'mean', 'avg', 'max', 'attention', 'lstm', 'gru', 'convlstm', 'convgru', 'transformer', 'shift',"
            " 'diff'"
        ),
    ):
        create_seq_model(torchvision.models.resnet18, 3, 'lstn')

def test_encoder_sees_what_the_network_sees():
    "The body is all of the network before its classifier: pooled and classified, it gives the network's own answer"
    x = torch.rand(2, 3, 64, 64)
    torch.manual_seed(0)
    net = torchvision.models.mobilenet_v2().eval()
    torch.manual_seed(0)
    enc = FrameEncoder(torchvision.models.mobilenet_v2, pretrained=False).eval()
    assert torch.allclose(net.classifier(enc(x).mean((2, 3))), net(x), atol=1e-5)

def test_downloaded_weights_are_used(monkeypatch):
    net = torchvision.models.resnet18()
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', lambda *a, **k: net.state_dict())
    model = SimpleModel(torchvision.models.resnet18, n_out=3)
    assert torch.equal(model.encoder.body[0].weight, net.conv1.weight)

def test_weights_that_cannot_be_downloaded(monkeypatch):
    def offline(*a, **k): raise OSError('no route to host')
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', offline)
    with pytest.raises(
        OSError, match='weights of resnet18 could not be downloaded .no route to host.; pass pretrained=False'
    ):
        RNNModel(torchvision.models.resnet18, n_out=3)

def test_weights_that_do_not_fit(tmp_path):
    f, net = tmp_path/'w.pth', SimpleCNN([3,8,16])
    own, name = net.state_dict(), 'SimpleCNN'
    keys = list(own)
    bad = {**own, keys[0]: torch.zeros(2, 2), 'extra': torch.zeros(1)}
    del bad[keys[1]]
    torch.save(bad, f)
    arch = partial(SimpleCNN, [3,8,16])
    with pytest.raises(ValueError) as e: FrameEncoder(arch, f)
    for part in (
        f'of {len(keys)} keys {len(keys)-2} fit',
        f'{keys[0]} is (2, 2), not {tuple(own[keys[0]].shape)}',
        f'1 missing in it ({keys[1]})',
        '1 unknown to the network (extra)',
        'strict=False',
    ):
        assert part in str(e.value)
    with pytest.warns(UserWarning, match=f'w.pth: {len(keys)-2} of {len(keys)} keys of SimpleCNN loaded'):
        enc = FrameEncoder(arch, f, strict=False)
    assert torch.equal(enc.state_dict()['body.'+keys[2]], own[keys[2]])
    torch.save({'state_dict': own}, f)                               # a checkpoint
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        FrameEncoder(arch, f)

def test_weights_in_safetensors(tmp_path):
    save = pytest.importorskip('safetensors.torch').save_file
    net = SimpleCNN([3,8,16])
    save(net.state_dict(), tmp_path/'w.safetensors')
    enc = FrameEncoder(partial(SimpleCNN, [3,8,16]), tmp_path/'w.safetensors')
    assert torch.equal(enc.body[0][0].weight, net[0][0].weight)

def test_frames_of_a_size_that_does_not_fit():
    pytest.importorskip('timm')
    model = create_seq_model('vit_tiny_patch16_224', 3, 'mean', pretrained=False)
    with pytest.raises(ValueError, match='cannot take frames of 64x96 pixels, it takes 224x224'):
        model(torch.rand(1, 2, 3, 64, 96))
    with pytest.raises(RuntimeError, match='[Tt]ype'):
        create_seq_model(torchvision.models.resnet18, 3, pretrained=False)(
            torch.zeros(1, 2, 3, 64, 64, dtype=torch.uint8)
        )

# ---- heads ----

blind, aware = ('mean', 'avg', 'max', 'attention'), ('lstm', 'gru', 'convlstm', 'convgru', 'transformer', 'diff')
tiny = partial(SimpleCNN, [3,8,16])

class Residual(nn.Module):
    "The least network that a temporal shift fits in"
    def __init__(self, c=16):
        super().__init__()
        self.conv1, self.bn1, self.downsample = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c), None
    def forward(self, x): return x + self.bn1(self.conv1(x)).relu()


def shiftable():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        Residual(),
        Residual(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def tiny_model(head, **kw): return create_seq_model(shiftable, 3, head, pretrained=False, **kw).eval()

def test_all_heads_are_tested(): assert {*blind, *aware, 'shift'} == set(head_classes)

@pytest.mark.parametrize('head', head_classes)
@pytest.mark.slow
def test_every_head(head):
    torch.manual_seed(0)
    model, x = tiny_model(head), torch.rand(3, 5, 3, 16, 16)
    with torch.no_grad():
        out = model(x)
        assert out.shape == (3, 3) and type(out) is torch.Tensor
        assert torch.equal(model(ImageTuple(x.unbind(1))), out) and torch.equal(model(TensorVideo(x)), out)
        order_free = torch.allclose(model(x[:, torch.randperm(5)]), out, atol=1e-5) and torch.allclose(
            model(x.flip(1)), out, atol=1e-5
        )
        assert order_free == (head in blind)
        lengths = (5, 2, 3)
        padded = TensorVideo(x.clone())
        padded[1, 2:] = 7
        padded[2, 3:] = -7
        padded.lengths = lengths
        res = model(padded)
        for i,n in enumerate(lengths): assert torch.allclose(res[i], model(x[i:i+1, :n])[0], atol=1e-5)
        assert torch.equal(res, model(padded.as_subclass(torch.Tensor), lengths)) and torch.equal(
            res, model(x, torch.tensor(lengths))
        )
        test = tiny_model(head)
        test.load_state_dict(model.state_dict())
        assert all(torch.equal(m(x), out) for m in (test, copy.deepcopy(model), pickle.loads(pickle.dumps(model))))
    check_groups(model)

@pytest.mark.parametrize('head,kw', [('lstm', dict(bidirectional=True, num_rnn_layers=2)), ('gru', dict(bidirectional=True, pool_size=2))])
def test_two_way_heads_mind_padding(head, kw):
    model, x = tiny_model(head, hidden_size=8, **kw), torch.rand(3, 5, 3, 16, 16)
    with torch.no_grad():
        for i, n in enumerate(lengths := (2, 5, 1)):
            assert torch.allclose(model(x, lengths)[i], model(x[i : i + 1, :n])[0], atol=1e-5)
        assert not torch.allclose(model(x), model(torch.cat([x[:, 1:], x[:, :1]], 1)))

@pytest.mark.parametrize('head', ['lstm', 'gru'])
def test_two_way_heads_join_both_ends(head):
    "The last state of either direction, as torch itself gives it"
    h, v = head_classes[head](16, 3, hidden_size=8, num_rnn_layers=2, bidirectional=True).eval(), torch.rand(2, 4, 16)
    states = h.rnn(v)[1]
    states = states[0] if head == 'lstm' else states
    assert torch.allclose(h.join(h.steps(v)), torch.cat([states[-2], states[-1]], -1), atol=1e-6)

@pytest.mark.parametrize('head', head_classes)
def test_pooled_features_serve_as_well(head):
    h, v = head_classes[head](16, 3).eval(), torch.rand(2, 4, 16)
    with torch.no_grad(): assert torch.allclose(h(v), h(v[..., None, None]), atol=1e-5)

@pytest.mark.parametrize('head', head_classes)
def test_bf16_and_channels_last(head):
    torch.manual_seed(0)
    model, x = tiny_model(head), torch.rand(2, 4, 3, 16, 16)
    with torch.no_grad():
        out = model(x)
        with torch.autocast('cpu', torch.bfloat16): half = model(x)
        assert (half.float() - out).abs().max() < .05*(1 + out.abs().max())
        with torch.autocast('cpu', torch.bfloat16): model(x, (4,2))
        model.to(memory_format=torch.channels_last)
        assert torch.allclose(model(x), out, atol=1e-5) and torch.allclose(
            model(x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)), out, atol=1e-5
        )
    model.train()
    with torch.autocast('cpu', torch.bfloat16): model(x).float().sum().backward()
    assert all(p.grad is not None for p in model.parameters())

def test_attention_can_be_looked_at():
    model, x = tiny_model('attention'), torch.rand(2, 4, 3, 16, 16)
    w = model.head.weights(model.features(x, (4,2)), (4,2))
    assert w.shape == (2, 4) and torch.allclose(w.sum(1), torch.ones(2)) and w[1, 2:].tolist() == [0, 0]

def test_what_a_head_cannot_take():
    with pytest.raises(ValueError, match='a clip of 1'): tiny_model('diff')(torch.rand(2, 1, 3, 16, 16))
    with pytest.raises(ValueError, match='no residual blocks'): create_seq_model(tiny, 3, 'shift', pretrained=False)
    with pytest.raises(ValueError, match='expected 2 numbers from 1 to 4'):
        tiny_model('avg')(torch.rand(2, 4, 3, 16, 16), (4, 0))

def test_own_head():
    class MyHead(Head):
        def steps(self, x, lengths=None): return x*2
    model = create_seq_model(tiny, 3, MyHead, pretrained=False, lin_ftrs=[]).eval()
    assert model(torch.rand(2, 4, 3, 16, 16)).shape == (2, 3) and type(model.head) is MyHead
    class Plain(nn.Module):
        def __init__(self, n_features, n_out):
            super().__init__()
            self.lin = nn.Linear(n_features, n_out)
        def forward(self, x, lengths=None): return self.lin(x.mean((1, 3, 4)))
    assert create_seq_model(tiny, 3, Plain, pretrained=False)(torch.rand(2, 4, 3, 16, 16)).shape == (2, 3)

@pytest.mark.parametrize('head', head_classes)
@pytest.mark.slow
def test_no_obstacle_to_export(head):
    "torch's own export goes through every model, and what it makes says the same"
    model, x = tiny_model(head), torch.rand(2, 4, 3, 16, 16)
    program = torch.export.export(model, (x,)).module()
    with torch.no_grad(): assert torch.allclose(program(x), model(x), atol=1e-5)

# ---- what they learn: a dot on a line of eight places goes left or right, from anywhere ----

def dots(n, maps):
    y, at, t = torch.randint(0, 2, (n,)), torch.randint(0, 8, (n,)), torch.arange(6)
    places = (at[:, None] + t*(2*y[:, None]-1)) % 8
    x = torch.eye(8)[places]                                                    # (n,6,8): the place is the feature
    return (x[:, :, None, None] if maps else x), y                              # or it is in the map, (n,6,1,1,8)

@pytest.mark.parametrize('head', [*blind, *aware])
@pytest.mark.slow
def test_order_aware_heads_learn_direction(head):
    torch.manual_seed(0)
    maps = head.startswith('conv')
    small = {
        'lstm': dict(hidden_size=32),
        'gru': dict(hidden_size=32),
        'convlstm': dict(hidden_size=16),
        'convgru': dict(hidden_size=16),
        'transformer': dict(dim=32),
        'diff': dict(hidden_size=64),
    }.get(head, {})
    model = head_classes[head](1 if maps else 8, 2, **small)
    opt = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(150):
        x, y = dots(64, maps)
        nn.functional.cross_entropy(model(x), y).backward()
        opt.step()
        opt.zero_grad()
    model.eval()
    x, y = dots(512, maps)
    with torch.no_grad(): acc = (model(x).argmax(1) == y).float().mean()
    assert acc > .95 if head in aware else abs(acc - .5) < .1, acc

@pytest.mark.slow
def test_shift_learns_direction():
    "The same dots, drawn as pictures, since the shift acts inside of the encoder"
    torch.manual_seed(0)
    def clips(n):
        x, y = dots(n, True)
        return x.expand(-1, -1, 3, 4, 8).repeat_interleave(2, 3).repeat_interleave(2, 4), y
    accs = {}
    for head in ('shift', 'avg'):
        model = tiny_model(head, lin_ftrs=[32]).train()
        opt = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(100):
            x, y = clips(32)
            nn.functional.cross_entropy(model(x), y).backward()
            opt.step()
            opt.zero_grad()
        model.eval()
        x, y = clips(256)
        with torch.no_grad(): accs[head] = (model(x).argmax(1) == y).float().mean()
    assert accs['shift'] > .95 and abs(accs['avg'] - .5) < .12, accs

# ---- chunks ----

def outcome(model, x, *args):
    "Output and gradients, buffers too"
    model.zero_grad()
    torch.manual_seed(0)
    out = model(x, *args)
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)], [
        b.clone() for b in model.buffers()
    ]

@pytest.mark.parametrize('head', ['avg', 'lstm', 'shift'])
@pytest.mark.parametrize('chunk', [1, 3, 7, 100])
@pytest.mark.parametrize('lengths', [None, (5,2,4)], ids=['full', 'padded'])
@pytest.mark.slow
def test_chunks_change_nothing(head, chunk, lengths):
    model, x = tiny_model(head).double(), torch.rand(3, 5, 3, 16, 16).double()
    model.head.train()                                             # training, with the encoder's BatchNorm frozen
    want, _ = outcome(model, x, lengths)
    model.chunk = chunk
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        got, _ = outcome(model, x, lengths)
    assert len(want) == len(got) and all(torch.allclose(a, b, atol=1e-9) for a,b in zip(want, got))
    with torch.no_grad(): assert torch.allclose(model.eval()(x, lengths), tiny_like(model)(x, lengths), atol=1e-9)

def tiny_like(model):
    res = copy.deepcopy(model)
    res.chunk = None
    return res

def test_chunks_in_training_say_so_once_and_count_once():
    model, x = tiny_model('avg', chunk=5).train(), torch.rand(2, 5, 3, 16, 16)
    ref = copy.deepcopy(model.encoder)
    with pytest.warns(
        UserWarning, match='BatchNorm in training mode takes its statistics from 5 frames, not from all 10'
    ):
        outcome(model, x)
    with torch.no_grad(): [ref(o) for o in x]                      # each chunk once
    for a,b in zip(model.encoder.buffers(), ref.buffers()): assert torch.allclose(a.float(), b.float(), atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        outcome(model, x)

def test_chunks_keep_fewer_tensors():
    "What autograd keeps between forward and backward falls with the chunk"
    def kept(chunk):
        model, n = tiny_model('avg', chunk=chunk), [0]
        def pack(t):
            n[0] += t.nbytes
            return t
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t): model(torch.rand(2, 8, 3, 32, 32))
        return n[0]
    assert kept(4) < kept(None)/3

def test_one_call_of_the_encoder():
    "As in the walk-through: all frames at once, and those of padding not at all"
    model, x, calls = tiny_model('lstm'), torch.rand(3, 5, 3, 16, 16), []
    model.encoder.register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    model(x)
    model(x, (5,1,2))
    assert calls == [15, 8]

# ---- splitters and the learner ----

def test_resnets_halves_are_fastais():
    "fastai cuts a resnet18 behind its second layer of blocks"
    model = create_seq_model(torchvision.models.resnet18, 3, pretrained=False)
    assert [len(g) for g in seq_splitter(model)[:2]] == [
        len(list(model.encoder.body[:6].parameters())),
        len(list(model.encoder.body[6:].parameters())),
    ]

def test_shared_parameters_are_in_one_group():
    def tied():
        net = nn.Sequential(
            *[nn.Conv2d(3, 3, 3, padding=1) for _ in range(6)],
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(3, 9),
        )
        net[5].weight = net[0].weight
        return net
    check_groups(create_seq_model(tied, 3, 'avg', pretrained=False))

def test_the_walk_throughs_names():
    assert simple_splitter is rnnmodel_splitter is seq_splitter
    simple, rnn = SimpleModel(tiny, 3, False), RNNModel(tiny, 3, 2, False, 16, 2, True, .1)
    assert (
        isinstance(simple, SeqModel)
        and rnn.head.rnn.num_layers == 2
        and rnn.head.rnn.bidirectional
        and rnn.head.n_in == 16 * 4
    )
    for m in (simple, rnn):
        assert m(torch.rand(2, 4, 3, 32, 32)).shape == (2, 3)
        check_groups(m)

def test_freezing_and_fine_tuning():
    from fastai.callback.training import BnFreeze
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.callback import schedule                                           # fine_tune
    from fastai.learner import Learner
    items = [(torch.rand(4, 3, 16, 16), i % 2) for i in range(8)]
    learn = Learner(
        DataLoaders(DataLoader(items, bs=4), DataLoader(items, bs=4)),
        tiny_model('lstm', hidden_size=8).train(),
        nn.CrossEntropyLoss(),
        splitter=seq_splitter,
    )
    learn.freeze()
    enc = learn.model.encoder
    assert {n for n, p in enc.named_parameters() if p.requires_grad} == {
        n for n, _ in enc.named_parameters() if 'bn' in n
    }
    assert all(p.requires_grad for p in learn.model.head.parameters())
    frozen, before = enc.body[0].weight.clone(), learn.model.head.rnn.weight_ih_l0.clone()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2)
        assert torch.equal(enc.body[0].weight, frozen) and not torch.equal(learn.model.head.rnn.weight_ih_l0, before)
        learn.fine_tune(1, 1e-2)
    lrs = [h['lr'] for h in learn.opt.hypers]
    assert len(lrs) == 3 and lrs[0] < lrs[1] < lrs[2] and not torch.equal(enc.body[0].weight, frozen)
