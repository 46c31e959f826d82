"Every family of torchvision's image networks encodes frames, with its own number of features."
import pytest, torch, torchvision
from torch import nn

from fastai_seq.models import FrameEncoder, RNNModel, SimpleModel, simple_splitter

features = dict(alexnet=256, vgg11_bn=512, resnet18=512, resnet50=2048, resnext50_32x4d=2048, wide_resnet50_2=2048, squeezenet1_1=512,
    densenet121=1024, inception_v3=2048, googlenet=1024, shufflenet_v2_x0_5=1024, mobilenet_v2=1280, mobilenet_v3_small=576,
    mnasnet0_5=1280, efficientnet_b0=1280, efficientnet_v2_s=1280, regnet_y_400mf=440, vit_b_32=768, convnext_tiny=768, swin_t=768,
    swin_v2_t=768, maxvit_t=512)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', features)
def test_encoder_of_every_family(name):
    model = SimpleModel(torchvision.models.get_model_builder(name), n_out=3, pretrained=False)
    assert model.encoder.n_features == features[name]
    size = 224 if name in ('vit_b_32', 'maxvit_t') else 299 if name == 'inception_v3' else 96
    x = torch.rand(1, 2, 3, size, size)
    assert model.train()(torch.cat([x, x])).shape == (2, 3)   # auxiliary classifiers answer in training only
    maps = model.eval().encoder(x[0])
    assert maps.ndim == 4 and maps.shape[:2] == (2, features[name])
    assert sum(len(g) for g in simple_splitter(model)) == len(list(model.parameters()))

def test_encoder_sees_what_the_network_sees():
    "The body is all of the network before its classifier: pooled and classified, it gives the network's own answer"
    x = torch.rand(2, 3, 64, 64)
    torch.manual_seed(0); net = torchvision.models.mobilenet_v2().eval()
    torch.manual_seed(0); enc = FrameEncoder(torchvision.models.mobilenet_v2, pretrained=False).eval()
    assert torch.allclose(net.classifier(enc(x).mean((2, 3))), net(x), atol=1e-5)

def test_downloaded_weights_are_used(monkeypatch):
    net = torchvision.models.resnet18()
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', lambda *a, **k: net.state_dict())
    model = SimpleModel(torchvision.models.resnet18, n_out=3)
    assert torch.equal(model.encoder.body[0].weight, net.conv1.weight)

def test_weights_that_cannot_be_downloaded(monkeypatch):
    def offline(*a, **k): raise OSError('no route to host')
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', offline)
    with pytest.raises(OSError, match='weights of resnet18 could not be downloaded .no route to host.; pass pretrained=False'):
        RNNModel(torchvision.models.resnet18, n_out=3)
