import json

import PIL.Image
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from limner.document.document import Media
from limner.document.media import Image
from limner.modalities.encoders.clip import ClipEncoder
from limner.modalities.encoders.dinov3 import DinoV3Encoder
from limner.modalities.encoders.efficientnet import EfficientNetEncoder
from limner.modalities.encoders.siglip import SiglipEncoder

TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def picture(width: int = 40, height: int = 20, colour: str = "red") -> Media:
    return Media(Image.from_pil(PIL.Image.new("RGB", (width, height), colour)))


@pytest.fixture(scope="module")
def lite0_state():
    torch.manual_seed(0)
    return EfficientNet.from_name("efficientnet-lite0").state_dict()


@pytest.fixture
def clip_directory(tmp_path):
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**TINY)).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def siglip_directory(tmp_path):
    torch.manual_seed(0)
    SiglipVisionModel(SiglipVisionConfig(**TINY)).save_pretrained(tmp_path)
    return tmp_path


def check_contract(encoder, media):
    """Rows per item as measured, and the same rows alone as in a batch."""
    items = torch.stack([encoder.preprocess(media), encoder.preprocess(picture(colour="blue"))])
    features = encoder(items)
    rows = encoder.measure(media)
    assert features.lengths.tolist() == [rows, rows]
    assert features.values.shape == (2 * rows, encoder.width)
    torch.testing.assert_close(encoder(items[:1]).values, features.values[:rows])
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_lite0_gives_a_grid_of_1280_channels_whatever_the_mode_around_it(lite0_state):
    encoder = EfficientNetEncoder(lite0_state, image_size=64, grid=2)
    check_contract(encoder, picture())
    item = encoder.preprocess(picture())[None]
    before = encoder(item).values
    torch.nn.Sequential(encoder).train()
    torch.testing.assert_close(encoder(item).values, before, rtol=0, atol=0)


@pytest.mark.parametrize(("stride", "block"), [(16, 11), (8, 5)])
def test_lite0_at_a_smaller_stride_gives_the_map_that_enters_a_halving(lite0_state, stride, block):
    encoder = EfficientNetEncoder(lite0_state, image_size=64, grid=64 // stride, stride=stride)
    check_contract(encoder, picture())
    entering = []
    halving = encoder.network._blocks[block]
    halving.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    item = encoder.preprocess(picture())[None]
    encoder.network.extract_features(item)
    expected = entering[0].flatten(2).transpose(1, 2)[0]
    torch.testing.assert_close(encoder(item).values, expected)
    with pytest.raises(ValueError, match="stride is 4"):
        EfficientNetEncoder(lite0_state, stride=4)


def test_lite0_reads_a_directory_and_pads_to_a_square_on_white(lite0_state, tmp_path):
    save_file(lite0_state, tmp_path / "model.safetensors")
    encoder = EfficientNetEncoder(tmp_path, image_size=64, grid=1)
    item = encoder.preprocess(picture(40, 20, "black"))
    assert item.shape == (3, 64, 64)
    assert item[:, 0].eq((255 - 127) / 128).all()
    assert item[:, 32].eq(-127 / 128).all()


def test_lite0_refuses_what_does_not_fit(lite0_state, tmp_path):
    with pytest.raises(ValueError, match="multiple of 32"):
        EfficientNetEncoder(lite0_state, image_size=100)
    with pytest.raises(ValueError, match="grid 4 at image_size 64"):
        EfficientNetEncoder(lite0_state, image_size=64, grid=4)
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        EfficientNetEncoder(tmp_path)
    with pytest.raises(ValueError, match="does not fit EfficientNet-lite0"):
        EfficientNetEncoder({"foreign": torch.zeros(1)})


def test_clip_gives_the_patch_rows_of_the_chosen_layer(clip_directory):
    encoder = ClipEncoder(clip_directory, select_layer=-2)
    check_contract(encoder, picture())
    items = encoder.preprocess(picture())[None]
    states = encoder.network(items, output_hidden_states=True).hidden_states
    torch.testing.assert_close(encoder(items).values, states[-2][0, 1:], rtol=0, atol=0)


def test_siglip_has_no_class_row_to_drop(siglip_directory):
    encoder = SiglipEncoder(siglip_directory)
    check_contract(encoder, picture())
    assert encoder.measure(picture()) == 4


@pytest.fixture
def dinov3_directory(tmp_path):
    torch.manual_seed(0)
    DINOv3ViTModel(DINOv3ViTConfig(**TINY, num_register_tokens=2)).save_pretrained(tmp_path)
    return tmp_path


def test_dinov3_drops_its_class_row_and_registers(dinov3_directory):
    encoder = DinoV3Encoder(dinov3_directory)
    check_contract(encoder, picture())
    assert encoder.measure(picture()) == 4
    items = encoder.preprocess(picture())[None]
    states = encoder.network(items, output_hidden_states=True).hidden_states
    torch.testing.assert_close(encoder(items).values, states[-1][0, 3:], rtol=0, atol=0)


@pytest.mark.parametrize("layer", [-4, -3, -2, -1, 0, 3])
@pytest.mark.parametrize(
    ("encoder", "directory"),
    [(ClipEncoder, "clip_directory"), (SiglipEncoder, "siglip_directory"), (DinoV3Encoder, "dinov3_directory")],
)
def test_only_the_layers_that_are_needed_run(encoder, directory, layer, request):
    tower = encoder(request.getfixturevalue(directory), select_layer=layer)
    items = tower.preprocess(picture())[None]
    expected = tower.network(items, output_hidden_states=True).hidden_states[layer][0, tower.first_patch :]
    ran = []
    for number, module in enumerate(tower.layers):
        module.register_forward_hook(lambda *_, number=number: ran.append(number))
    torch.testing.assert_close(tower(items).values, expected, rtol=0, atol=0)
    assert ran == list(range(layer % 4))


def test_a_tower_can_be_made_of_published_numbers_alone():
    config = {"vision_config": TINY, "text_config": {"hidden_size": 8}}
    processor = {"size": 28, "crop_size": 28, "image_mean": [0.0, 0.0, 0.0], "image_std": [0.5, 0.5, 0.5]}
    encoder = ClipEncoder.from_config(config, select_layer=-1, processor=processor)
    check_contract(encoder, picture())
    torch.testing.assert_close(encoder.preprocess(picture())[:, 14, 14], torch.tensor([2.0, 0.0, 0.0]))


@pytest.mark.parametrize("select_layer", [-5, 4])
def test_a_layer_that_does_not_exist_is_refused(clip_directory, select_layer):
    with pytest.raises(ValueError, match=r"select_layer is .*; expected -4 to 3"):
        ClipEncoder(clip_directory, select_layer=select_layer)


def test_the_directory_s_processor_wins_over_the_defaults(clip_directory):
    values = {
        "size": {"shortest_edge": 28},
        "crop_size": {"height": 28, "width": 28},
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [0.5, 0.5, 0.5],
    }
    (clip_directory / "preprocessor_config.json").write_text(json.dumps(values))
    item = ClipEncoder(clip_directory).preprocess(picture(60, 30, "red"))
    assert item.shape == (3, 28, 28)
    torch.testing.assert_close(item[:, 14, 14], torch.tensor([2.0, 0.0, 0.0]))


@pytest.mark.parametrize("size", [(60, 30), (31, 77), (28, 28)])
def test_clip_preprocessing_agrees_with_the_published_processor(clip_directory, size):
    from transformers import CLIPImageProcessorPil

    noise = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8).numpy()
    published = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28)
    expected = published(PIL.Image.fromarray(noise), return_tensors="pt")["pixel_values"][0]
    found = ClipEncoder(clip_directory).preprocess(Media(Image.from_array(noise)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_siglip_stretches_where_clip_crops(siglip_directory):
    (siglip_directory / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 28, "width": 28}, "image_mean": [0.5] * 3})
    )
    halves = PIL.Image.new("RGB", (80, 20), "black")
    halves.paste((255, 255, 255), (40, 0, 80, 20))
    item = SiglipEncoder(siglip_directory).preprocess(Media(Image.from_pil(halves)))
    assert item[0, 14, 0].item() == -1.0
    assert item[0, 14, -1].item() == 1.0
