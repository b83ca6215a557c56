"""Samplers: the ways from noise to latents, by name, over diffusers' schedulers.

Owns the names, how a scheduler is built from the json of another one, and the two samplers that draw noise at every
step. These two are written out because diffusers' own draw inside their step, from generators alone: here noise is an
argument, so an item's picture depends on its own generator and a recorded trajectory can be replayed.

Data flow: `diffusion_sampler(name, json, steps)` or `flow_sampler(name, json, steps)` -> a `Sampler` for one
trajectory -> per step: `scale_input`, the network's prediction, `step` -> latents.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from jaxtyping import Float
from torch import Tensor


class Sampler:
    """One trajectory of a deterministic scheduler. It has a state: each trajectory needs its own.

    timesteps:     what the network is told, first step first [steps].
    initial_scale: standard deviation of the noise that the trajectory starts from.
    draws_noise:   whether `step` wants noise.
    """

    draws_noise: bool = False

    def __init__(self, scheduler: Any, *, num_inference_steps: int) -> None:
        limit = scheduler.config.num_train_timesteps
        if not 1 <= num_inference_steps <= limit:
            raise ValueError(f"num_inference_steps is {num_inference_steps}; expected 1 to {limit}\nhint: 20 to 50 do")
        self.scheduler = scheduler
        scheduler.set_timesteps(num_inference_steps)
        self.timesteps: Tensor = torch.as_tensor(scheduler.timesteps)
        self.initial_scale = float(getattr(scheduler, "init_noise_sigma", 1.0))

    def __len__(self) -> int:
        return len(self.timesteps)

    def scale_input(self, latents: Float[Tensor, "items *latent"], *, step: int) -> Float[Tensor, "items *latent"]:
        """Latents as the network wants them at a step."""
        scale = getattr(self.scheduler, "scale_model_input", None)
        return latents if scale is None else scale(latents, self.timesteps[step])

    def step(
        self,
        prediction: Float[Tensor, "items *latent"],
        latents: Float[Tensor, "items *latent"],
        *,
        step: int,
        noise: Float[Tensor, "items *latent"] | None = None,
    ) -> Float[Tensor, "items *latent"]:
        """Latents after a step; `noise` is of unit variance, for samplers that draw."""
        return self.scheduler.step(prediction, self.timesteps[step], latents, return_dict=False)[0]


class AncestralDDPM(Sampler):
    """Ancestral sampling (Ho et al. 2020, algorithm 2 and eq. 7), predicted x_0 clipped where the json says so.

    It draws at every step, the last too: that one ends at time 1, not at time 0.
    """

    draws_noise = True

    def __init__(self, scheduler: DDPMScheduler, *, num_inference_steps: int) -> None:
        super().__init__(scheduler, num_inference_steps=num_inference_steps)
        config: Any = scheduler.config
        if config.variance_type not in ("fixed_small", "fixed_large") or config.thresholding:
            raise ValueError(
                f"the scheduler has variance_type {config.variance_type!r} and thresholding {config.thresholding}; "
                'expected "fixed_small" or "fixed_large", and no thresholding\nhint: take another sampler, say "ddim"'
            )

    def step(
        self,
        prediction: Float[Tensor, "items *latent"],
        latents: Float[Tensor, "items *latent"],
        *,
        step: int,
        noise: Float[Tensor, "items *latent"] | None = None,
    ) -> Float[Tensor, "items *latent"]:
        """Mean of the posterior plus its standard deviation times `noise`."""
        assert noise is not None, "the caller draws"
        config, time = self.scheduler.config, int(self.timesteps[step])
        before = int(self.timesteps[step + 1]) if step + 1 < len(self) else -1
        kept = self.scheduler.alphas_cumprod[time]
        kept_before = self.scheduler.alphas_cumprod[before] if before >= 0 else torch.ones(())
        beta = 1.0 - kept / kept_before
        clean = _clean(prediction, latents, kept=kept, prediction_type=config.prediction_type)
        if config.clip_sample:
            clean = clean.clamp(-config.clip_sample_range, config.clip_sample_range)
        mean_clean = kept_before.sqrt() * beta / (1.0 - kept)
        mean_noisy = (1.0 - beta).sqrt() * (1.0 - kept_before) / (1.0 - kept)
        variance = beta
        if config.variance_type == "fixed_small":
            variance = (1.0 - kept_before) / (1.0 - kept) * beta
        moved = mean_clean * clean + mean_noisy * latents
        return moved + variance.clamp(min=1e-20).sqrt() * noise if time > 0 else moved


class AncestralEuler(Sampler):
    """Euler steps to a lower noise level than the next one, and noise up to it (Karras et al. 2022, section 4).

    Its latents are x_0 + sigma noise: those of `AncestralDDPM`, over sqrt(alpha-bar).
    """

    draws_noise = True

    def scale_input(self, latents: Float[Tensor, "items *latent"], *, step: int) -> Float[Tensor, "items *latent"]:
        """Latents of variance 1, which the network knows."""
        return latents / (self.scheduler.sigmas[step] ** 2 + 1.0).sqrt()

    def step(
        self,
        prediction: Float[Tensor, "items *latent"],
        latents: Float[Tensor, "items *latent"],
        *,
        step: int,
        noise: Float[Tensor, "items *latent"] | None = None,
    ) -> Float[Tensor, "items *latent"]:
        """A deterministic step down, then `noise` up."""
        assert noise is not None, "the caller draws"
        now, after = self.scheduler.sigmas[step], self.scheduler.sigmas[step + 1]
        noisy, kind = self.scale_input(latents, step=step), self.scheduler.config.prediction_type
        clean = _clean(prediction, noisy, kept=1.0 / (1.0 + now**2), prediction_type=kind)
        up = (after**2 * (now**2 - after**2) / now**2).sqrt()
        down = (after**2 - up**2).sqrt()
        return latents + (latents - clean) / now * (down - now) + up * noise


def diffusion_sampler(name: str, config: Mapping[str, Any], *, num_inference_steps: int) -> Sampler:
    """A sampler for a network that predicts noise or velocity; `config` is a scheduler json, of whichever class.

    Raises ValueError for an unknown name.
    """
    return _sampler(name, _DIFFUSION, config, num_inference_steps=num_inference_steps)


def flow_sampler(name: str, config: Mapping[str, Any], *, num_inference_steps: int) -> Sampler:
    """A sampler for a flow from noise (time 1) to latents (time 0); `config` may be empty or hold a `shift`.

    Raises ValueError for an unknown name and for one that is no way along a flow.
    """
    return _sampler(name, _FLOW, config, num_inference_steps=num_inference_steps)


def _sampler(
    name: str,
    known: Mapping[str, Callable[[Mapping[str, Any], int], Sampler]],
    config: Mapping[str, Any],
    *,
    num_inference_steps: int,
) -> Sampler:
    if name not in known:
        raise ValueError(f"no sampler `{name}` for this decoder\nhint: there is {', '.join(known)}")
    with warnings.catch_warnings():
        # Schedulers hand tensors to numpy in a way that numpy 2 frowns upon.
        warnings.simplefilter("ignore", DeprecationWarning)
        return known[name](config, num_inference_steps)


def accepted(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Those entries of a json that a class of diffusers takes; what the json does not say is the class's default."""
    names = inspect.signature(kind).parameters
    return {name: value for name, value in config.items() if name in names}


def _clean(prediction: Tensor, noisy: Tensor, *, kept: Tensor, prediction_type: str) -> Tensor:
    """The predicted x_0 (Ho et al. 2020, eq. 15; Salimans & Ho 2022, appendix D), `kept` being alpha-bar."""
    if prediction_type == "epsilon":
        return (noisy - (1.0 - kept).sqrt() * prediction) / kept.sqrt()
    if prediction_type == "v_prediction":
        return kept.sqrt() * noisy - (1.0 - kept).sqrt() * prediction
    raise ValueError(
        f'prediction_type is {prediction_type!r}; expected "epsilon" or "v_prediction"\nhint: look into the json'
    )


def _over(kind: type, sampler: type[Sampler] = Sampler, **fixed: Any) -> Callable[[Mapping[str, Any], int], Sampler]:
    """A sampler over a scheduler class; `fixed` wins over the json."""

    def build(config: Mapping[str, Any], num_inference_steps: int) -> Sampler:
        return sampler(kind(**accepted(kind, config) | fixed), num_inference_steps=num_inference_steps)

    return build


def _flow_euler(config: Mapping[str, Any], num_inference_steps: int) -> Sampler:
    scheduler = FlowMatchEulerDiscreteScheduler(**accepted(FlowMatchEulerDiscreteScheduler, config))
    return _FlowEuler(scheduler, num_inference_steps=num_inference_steps)


def _flow_multistep(config: Mapping[str, Any], num_inference_steps: int) -> Sampler:
    shift = float(config.get("shift", config.get("flow_shift", 1.0)))
    scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift)
    return Sampler(scheduler, num_inference_steps=num_inference_steps)


class _FlowEuler(Sampler):
    """Steps of equal length, the last of which ends at time 0: diffusers' own table would stop at 1 / 1000 before."""

    def __init__(self, scheduler: FlowMatchEulerDiscreteScheduler, *, num_inference_steps: int) -> None:
        super().__init__(scheduler, num_inference_steps=num_inference_steps)
        scheduler.set_timesteps(sigmas=torch.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps).tolist())
        self.timesteps = torch.as_tensor(scheduler.timesteps)


_DIFFUSION = {
    "ddpm": _over(DDPMScheduler, AncestralDDPM),
    "ddim": _over(DDIMScheduler),
    "dpm++": _over(DPMSolverMultistepScheduler, algorithm_type="dpmsolver++", solver_order=2),
    "euler": _over(EulerDiscreteScheduler),
    "euler-ancestral": _over(EulerAncestralDiscreteScheduler, AncestralEuler),
    "unipc": _over(UniPCMultistepScheduler),
}
_FLOW = {"euler": _flow_euler, "dpm++": _flow_multistep}
