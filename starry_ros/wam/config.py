"""Shape of a world-action model: frozen, JSON round trip, cross-field checks, named presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starry_ros.canvas.layout import CanvasLayout
from starry_ros.errors import ConfigError
from starry_ros.wam.options import COUPLINGS, INTENTS, LAYOUTS, VALUE_STARTS, GeometryConfig, StatesConfig, require


def added(default: Any) -> Any:
    """A field younger than the first checkpoints: absent from a file where it has its default, which changes nothing.

    So older files and the exports made from them keep fitting.
    """
    return field(default=default, metadata={"added": True})


@dataclass(frozen=True)
class StreamConfig:
    """Width of a stream's residual and of its feed-forward layer."""

    width: int
    feed_forward: int


@dataclass(frozen=True)
class ViewConfig:
    """One camera's tile on the canvas, in pixels."""

    camera: str
    x_px: int
    y_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True)
class WamConfig:
    """Everything that decides a tensor's shape or a token's meaning.

    `future_steps` is how far ahead the imagined frame lies, `history_slots` how many past observations the ring holds,
    `history_actions` how many executed actions a slot holds at most; all in steps of `step_s` seconds. The first
    `sink_slots` observations of an episode are never evicted. `prefix_steps` is how many steps of a committed prefix
    the model was trained to go on from; 0 is none.

    Options, off by default (see `options`): `coupling` "joint" lets all streams attend to each other; `value_start`
    "black" starts the value stream from a black map and a learned token; `layout` "rgbd" puts depth beside the canvas;
    `paths` draws where the hands have been; `geometry` adds the geometry expert; `states` compresses the history.
    `intent` is what tells the actions what to do; other than "value" are ablations with the same weights: "blind" knows
    no value map, its value tokens say what the action loss teaches them; in "video" actions read the imagined frame.
    """

    name: str
    canvas_height_px: int
    canvas_width_px: int
    token_px: int
    views: tuple[ViewConfig, ...]
    joints: int
    step_s: float
    chunk_steps: int = 16
    future_steps: int = 8
    history_slots: int = 4
    history_actions: int = 8
    layers: int = 4
    heads: int = 4
    head_dim: int = 48
    video: StreamConfig = StreamConfig(192, 384)
    value: StreamConfig = StreamConfig(128, 256)
    action: StreamConfig = StreamConfig(128, 384)
    latent_channels: int = 16
    latent_px: int = 16
    detail_channels: int = 32
    value_stride_px: int = 4
    value_events: int = 2
    text_width: int = 384
    text_tokens: int = 24
    rope_period: int = 4096
    video_steps: int = 1
    value_steps: int = 1
    action_steps: int = 6
    snap_grippers: bool = True
    sink_slots: int = added(0)
    prefix_steps: int = added(0)
    coupling: str = added("intent_causal")
    intent: str = added("value")
    value_start: str = added("noise")
    layout: str = added("rgb")
    paths: bool = added(False)
    geometry: GeometryConfig | None = field(default=None, metadata={"added": True})
    states: StatesConfig | None = field(default=None, metadata={"added": True})

    def __post_init__(self) -> None:
        require("coupling", self.coupling, COUPLINGS)
        require("intent", self.intent, INTENTS)
        require("value_start", self.value_start, VALUE_STARTS)
        require("layout", self.layout, LAYOUTS)
        for name in ("canvas_height_px", "canvas_width_px"):
            size = getattr(self, name)
            if size % self.token_px:
                raise ConfigError(
                    "model config", f"{name} is not a whole number of tokens", got=size,
                    expected=f"a multiple of {self.token_px}",
                    fix="choose a canvas whose borders fall on token borders",
                )
        if self.token_px % self.latent_px or self.token_px % self.value_stride_px:
            raise ConfigError("model config", "token size is no multiple of the latent and value strides",
                              got=self.token_px, expected=(self.latent_px, self.value_stride_px))
        if self.head_dim % 6:
            raise ConfigError("model config", "head_dim cannot be split into time, row and column pairs",
                              got=self.head_dim, expected="a multiple of 6")
        if self.rope_period < 4 * self.history_slots * self.chunk_steps:
            raise ConfigError("model config", "rope_period is shorter than the history it must tell apart",
                              got=self.rope_period, expected=f">= {4 * self.history_slots * self.chunk_steps}")
        if not 0 <= self.sink_slots < self.history_slots:
            raise ConfigError("model config", "sink_slots leaves no slot that moves on", got=self.sink_slots,
                              expected=f"0 to {self.history_slots - 1}")

        if self.intent != "value" and self.coupling != "intent_causal":
            raise ConfigError("intent", "is chosen where streams run one after the other", got=self.intent,
                              expected="value", fix="use coupling intent_causal")
        if self.intent == "blind" and self.value_steps != 1:
            raise ConfigError("intent", "blind has no value map to denoise in several steps", got=self.value_steps,
                              expected=1, fix="leave out --value-steps")

    @property
    def rows(self) -> int:
        """Token rows of a frame."""
        return self.canvas_height_px // self.token_px

    @property
    def columns(self) -> int:
        """Token columns of a frame."""
        return self.canvas_width_px // self.token_px

    @property
    def frame_tokens(self) -> int:
        """Tokens of one frame."""
        return self.rows * self.columns

    @property
    def frame_steps(self) -> int:
        """Frames of the history may lie anywhere."""
        return 0

    @property
    def sink_age_steps(self) -> int:
        """The greatest age that a sink is shown with: half of what the rotation can tell from the future."""
        return self.rope_period // 4

    @property
    def latent_patch(self) -> int:
        """Latent cells along a token's side."""
        return self.token_px // self.latent_px

    @property
    def value_cells(self) -> int:
        """Value-map cells along a token's side."""
        return self.token_px // self.value_stride_px

    @property
    def latent_token_width(self) -> int:
        """Numbers in one token's latent patch."""
        return self.latent_channels * self.latent_patch**2

    @property
    def value_token_width(self) -> int:
        """Numbers in one token's patch of the value map."""
        return self.value_events * self.value_cells**2

    @property
    def value_keys(self) -> int:
        """Keys that the value stream shows: one a token, and the learned noise token of a black start."""
        return self.frame_tokens + (self.value_start == "black")

    @property
    def gasam(self) -> str:
        """Which geometry weights bias the actions: "measured", "predicted", or "" for none."""
        return "" if self.geometry is None or self.geometry.mode == "off" else self.geometry.mode

    @property
    def needs_scene(self) -> bool:
        """Whether the model wants more than the packed canvas: depth, cameras and hands."""
        return self.layout != "rgb" or self.paths or bool(self.gasam)

    @property
    def past_tokens(self) -> int:
        """Tokens of a past frame in the history: the whole grid, or its compact state."""
        return self.frame_tokens if self.states is None else self.states.tokens

    def to_json_dict(self) -> dict[str, Any]:
        """Plain JSON types, without added fields that have their default."""
        raw = dataclasses.asdict(self)
        return {name: raw[name] for name, f in _FIELDS.items() if not f.metadata or raw[name] != f.default}

    @staticmethod
    def from_json_dict(raw: Mapping[str, Any]) -> WamConfig:
        """Inverse of `to_json_dict`. Raises ConfigError on missing or unknown fields."""
        required = {name for name, f in _FIELDS.items() if not f.metadata}
        missing, unknown = sorted(required - set(raw)), sorted(set(raw) - set(_FIELDS))
        if missing or unknown:
            raise ConfigError("model config", f"missing {missing}, unknown {unknown}",
                              fix="use a checkpoint written by this version")
        values = dict(raw)
        values["views"] = tuple(ViewConfig(**view) for view in raw["views"])
        for stream in ("video", "value", "action"):
            values[stream] = StreamConfig(**raw[stream])
        for option, kind in (("geometry", GeometryConfig), ("states", StatesConfig)):
            if raw.get(option) is not None:
                values[option] = kind(**raw[option])
        return WamConfig(**values)

_FIELDS = {f.name: f for f in dataclasses.fields(WamConfig)}


def tiny(layout: CanvasLayout, joints: int, step_s: float = 0.1) -> WamConfig:
    """The CPU default: a few million parameters, 30 tokens a frame on a 192 x 160 canvas."""
    return WamConfig(
        name="tiny", canvas_height_px=layout.height_px, canvas_width_px=layout.width_px, token_px=32,
        views=_views(layout), joints=joints, step_s=step_s,
    )


def base(layout: CanvasLayout, joints: int, step_s: float = 0.1) -> WamConfig:
    """For one GPU and a lab's own demonstrations: about 220 million parameters, 120 tokens a frame of that canvas."""
    return WamConfig(
        name="base", canvas_height_px=layout.height_px, canvas_width_px=layout.width_px, token_px=16,
        views=_views(layout), joints=joints, step_s=step_s, history_slots=16, layers=12, heads=12, head_dim=96,
        video=StreamConfig(768, 3072), value=StreamConfig(384, 1024), action=StreamConfig(512, 2048),
        detail_channels=64, video_steps=3, value_steps=2, action_steps=10,
    )


def _views(layout: CanvasLayout) -> tuple[ViewConfig, ...]:
    return tuple(
        ViewConfig(tile.camera, tile.rect.x_px, tile.rect.y_px, tile.rect.width_px, tile.rect.height_px)
        for tile in layout.tiles
    )


PRESETS = {"tiny": tiny, "base": base}


def preset(name: str, layout: CanvasLayout, joints: int, step_s: float = 0.1) -> WamConfig:
    """A named preset for a robot's canvas and joints."""
    if name not in PRESETS:
        raise ConfigError("preset", "unknown", got=repr(name), expected=sorted(PRESETS))
    return PRESETS[name](layout, joints, step_s)
