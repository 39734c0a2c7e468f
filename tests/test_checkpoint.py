import pytest
import torch

from llamarec_core.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from llamarec_core.files import InputError

SETTINGS = {"dim": 4, "modules": ("q_proj", "v_proj")}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    tensors = {"weight": torch.arange(6.0).reshape(2, 3).T, "step": torch.tensor(7, dtype=torch.int64)}
    save_checkpoint(path, tensors=tensors, progress={"iteration": 3, "best": 0.25}, settings=SETTINGS)
    return path


def test_a_checkpoint_returns_what_was_saved(checkpoint):
    tensors, progress = load_checkpoint(checkpoint, settings=SETTINGS)
    assert torch.equal(tensors["weight"], torch.arange(6.0).reshape(2, 3).T)
    assert tensors["step"].dtype == torch.int64
    assert tensors["step"] == 7
    assert progress == {"iteration": 3, "best": 0.25}


def test_a_checkpoint_of_other_settings_names_the_setting(checkpoint):
    with pytest.raises(InputError, match="written with dim = 4, but this run has dim = 8: delete it"):
        load_checkpoint(checkpoint, settings=SETTINGS | {"dim": 8})


def test_a_setting_younger_than_the_file_was_off_then(checkpoint):
    load_checkpoint(checkpoint, settings=SETTINGS | {"histories": 0})
    with pytest.raises(InputError, match="written with histories = None, but this run has histories = 8"):
        load_checkpoint(checkpoint, settings=SETTINGS | {"histories": 8})


@pytest.mark.parametrize("keep", [0, 4, 40, 200])
def test_a_truncated_checkpoint_is_refused_in_one_sentence(checkpoint, keep):
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(InputError, match="not a whole checkpoint.*delete it to start this step again"):
        load_checkpoint(checkpoint, settings=SETTINGS)


def test_an_optimizer_goes_on_exactly_where_it_stopped(tmp_path):
    def step(parameter, optimizer, number):
        optimizer.zero_grad()
        (parameter * (number + 1)).sin().sum().backward()
        optimizer.step()

    undisturbed = torch.nn.Parameter(torch.linspace(-1, 1, 5))
    optimizer = torch.optim.AdamW([undisturbed], lr=0.1)
    for number in range(3):
        step(undisturbed, optimizer, number)
    resumed = torch.nn.Parameter(undisturbed.detach().clone())
    restored = torch.optim.AdamW([resumed], lr=0.1)
    save_checkpoint(tmp_path / "a.safetensors", tensors=optimizer_tensors(optimizer), progress={}, settings={})
    restore_optimizer(restored, load_checkpoint(tmp_path / "a.safetensors", settings={})[0])
    for number in range(3, 6):
        step(undisturbed, optimizer, number)
        step(resumed, restored, number)
    assert torch.equal(undisturbed, resumed)
