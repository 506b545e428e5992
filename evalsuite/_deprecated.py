"""Modules and names of evalsuite 0.1 that have moved: they work for one release, with a warning that has the new name.

Only this module knows old names of modules.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any, cast

_TABLE = """
api api findings=report.build:report_data
axes cost_axes USUAL=DEFAULT_AXIS saved=ratio_on_axis known=check_axis share=share_phrase
bench evaluation
choices plugin_config Choice=PluginConfig choose=from_table labelled=from_tables built=build
commands cli
commands.cli cli.main KINDS=cli.commands.listing:KINDS
commands.cli_results cli.main RunFolder=cli.options:RunFolder Axis=cli.options:Axis
  cross_command=factorial_command plan_command=sample_size_command
  asked=cli.commands.threshold:requested_tolerances chosen=cli.commands.threshold:selected_rows
commands.console cli.console escaped=print_json print_report=print_error
  progress=cli.progress:cell_progress counting=cli.progress:count_progress
  print_listing=cli.commands.listing:print_listing listing=cli.commands.listing:listing
  print_inspection=cli.commands.inspection:print_inspection print_program=cli.commands.inspection:print_program
  print_plan=cli.dry_run:print_plan print_spent=cli.commands.run:print_time_spent
  print_status=cli.commands.status:print_status
commands.console_tables cli.threshold_tables print_cross=print_factorial print_rows=cli.console:print_rows
  print_verdicts=cli.commands.check:print_verdicts
compat.allocator models.inference
compat.attacked attacks.backends.base Attacked=AttackResult Run=AttackFunction AllBroken=AllMisclassified
  Watch=QueryRecorder first_look=misclassified swept=run_attack wrong=errors_on confirmed=verify_success
compat.autoattack attacks.backends.autoattack StrongAttack=AutoAttackComponent playable=available_component
  strong_success=autoattack_success
compat.calling compat.calls borrowed=frozen_eval
compat.cifar_c compat.robustbench
compat.foolbox attacks.backends.foolbox Attack=FixedRadiusAttack wrapped=foolbox_model
compat.foolbox_draws attacks.backends.foolbox
compat.foolbox_minimal attacks.backends.foolbox MinimalAttack=MinimalNormAttack pulled_back=bisect_to_boundary
compat.robustbench compat.robustbench Benchmarked=BenchmarkResult
compat.torch_pruning models.surgery.coupled_channels coupled_entries=dependent_entries
compat.zoo models.architectures.zoos zoo=models.architectures.robustbench:zoo_builders
  zoo_network=models.architectures.robustbench:zoo_network offline=models.architectures.robustbench:offline
  CLASSES=models.architectures.robustbench:CLASSES
data datasets register=plugins:register_dataset
data.archives datasets.transforms.archives Official=OfficialCorruption
data.arrays datasets.arrays Cifar10=datasets.cifar:Cifar10 Cifar100=datasets.cifar:Cifar100
  Mnist=datasets.outliers:Mnist FashionMnist=datasets.outliers:FashionMnist Svhn=datasets.outliers:Svhn
  CIFAR10_CLASSES=datasets.cifar:CIFAR10_CLASSES
data.checksums datasets.transforms.archives
data.corruption_batch datasets.transforms.common_corruptions.batch Batch=CorruptionBatch
data.corruption_blur datasets.transforms.common_corruptions.blur
data.corruption_constants datasets.transforms.common_corruptions.kinds
data.corruption_digital datasets.transforms.common_corruptions.digital
data.corruption_frost datasets.transforms.common_corruptions.frost
data.corruption_glass datasets.transforms.common_corruptions.blur
data.corruption_noise datasets.transforms.common_corruptions.noise Table=LevelTable
data.corruption_saturate datasets.transforms.common_corruptions.digital
data.corruption_spatter datasets.transforms.common_corruptions.weather
data.corruption_weather datasets.transforms.common_corruptions.weather
data.corruptions datasets.transforms.common_corruptions.kinds label=reported_kind
data.dataset datasets.base loaded=load_checked checked=check_image_set
data.digits datasets.digits
data.folders datasets.folders TinyImageNet=datasets.outliers:TinyImageNet Textures=datasets.outliers:Textures
  Places365=datasets.outliers:Places365 listed=datasets.outliers:read_picture_list
  decoded=decode_pictures LISTS=datasets.outliers:LISTS PICTURES=datasets.outliers:PICTURES
data.noises datasets.transforms.noise
data.outliers datasets.outliers
data.pictures datasets.pictures Listing=datasets.transforms.archives:Listing
  listing=datasets.transforms.archives:list_pictures Pictures=datasets.transforms.archives:LazyPictures
data.reproductions datasets.cifar
data.shelf datasets.shared_cache Shelf=SharedArrayCache
data.videos datasets.transforms.sequences Videos=PerturbationSequences
data.views datasets.source Gallery=ImageSource Change=datasets.views:Transform Stored=datasets.views:StoredImages
  Corruption=datasets.transforms.corruption:Corruption View=datasets.views:View
  frost_textures=datasets.transforms.corruption:frost_textures TEXTURES=datasets.transforms.corruption:TEXTURES
detectors.distances detectors.nearest_neighbours Gaussians=detectors.mahalanobis:Gaussians
  gaussians=detectors.mahalanobis:gaussians
detectors.nearest detectors.nearest_neighbours Nearest=NeighborIndex nearest=neighbor_index reached=kth_lower_bound
  Doubtful=Undecided doubtful=undecided
detectors.residual detectors.vim
detectors.shaping detectors.shaping applied=logits_of_features
evaluators evaluators register=plugins:register_evaluator
evaluators.accuracy evaluators.accuracy single=float32_evidence
evaluators.attack_flags attacks.validity Doubts=ValidityWarnings doubts=validity_warnings
evaluators.contract evaluators.base
evaluators.minimal evaluators.minimal_norm
evaluators.noise evaluators.noise NoisyInside=InternalNoise noisy_inside=with_internal_noise
evaluators.official evaluators.robustbench
evaluators.published evaluators.published_means gaps=missing_kinds lacking=missing_flags
evaluators.trainability evaluators.trainability unknown_because=missing_reason
evaluators.weapons attacks.specs Weapon=AttackSpec Force=AttackBudget weapon=attack_spec Attacker=AttackRunner
  target=attack_target check=check_settings transferred=transfer_attack
gates model_checks
metrics.chance metrics.calibration
metrics.classwise metrics.calibration
metrics.debiased metrics.calibration
models models register=plugins:register_architecture
models.architecture models.architectures.base assemble=build_model core=unwrap_model
models.archives models.exported.inspection shown_exported=summarize_torch_export
  shown_scripted=summarize_torchscript
models.bypass models.surgery.bypass Probe=BypassProbe bypassed=with_bypass without_dead=bypass_dead_layers
  probe=probe_bypass
models.checkpoints models.checkpoints.reading check_classes=check_class_count
  matched=models.checkpoints.state_dict_keys:match_keys
models.cnn models.architectures.cnn
models.containers models.checkpoints.file_formats Container=CheckpointFile container=identify_file
  check_budget=check_unpacked_size
models.conversion models.checkpoints.pickle_scan refusal=unsafe_pickle_error
models.cost models.cost prunable=prunable_layers nonzero=count_nonzero parameters=count_parameters
  counted=weight_cost
models.coupling models.surgery.coupled_channels prove=verify_groups redrawn=with_random_weights
models.densenet models.architectures.densenet
models.factors models.surgery.low_rank_factors factored=factorize_layer product=factored_weight
  multiplied=merge_factors factorise_to=factorize_like put_together=merge_factor_shapes
models.features models.features classifier=classifier_layer head=classifier_head
models.forward models.inference Prepared=InferenceModel prepared=prepare_for_inference
  single_precision=deterministic_float32
models.graph models.surgery.fx_graph Flow=TracedGraph flow=trace_graph plain=is_unmodified hooked=has_hooks
  per_channel=is_channelwise flattens=flattens_channels asks_size=reads_other_sizes
models.guessing models.checkpoints.architecture_detection guess=detect_architecture Fit=ArchitectureFit
  fits=fitting_architectures nearest=nearest_architectures signature=tensor_shapes
models.identity models.checkpoints.architecture_detection Identity=ArchitectureMatch identity=match_architecture
  image_shape=parse_image_shape
models.inspection models.checkpoints.inspection LayerContent=LayerInspection Inspection=CheckpointInspection
  inspect=inspect_checkpoint pattern=nm_pattern layer_content=inspect_layer
models.intake models.exported.program Intake=InputSpec Loaded=LoadedProgram Program=ExportedProgram
  declared=declared_input_spec
models.libraries models.architectures.zoos LibraryNetwork=models.architectures.external:ExternalArchitecture
  RobustBenchNetwork=models.architectures.robustbench:RobustBenchNetwork
  built=models.architectures.external:build_network
models.loading models.checkpoints.loading rebuilt=build_with_weights
models.masks models.checkpoints.masks folded=fold_parametrizations masked=apply_masks
models.naming models.checkpoints.state_dict_keys unwrapped=find_state_dict without_prefixes=strip_prefixes
  stripped=stripped_names some=errors:first_few
models.normless models.architectures.norm_free_resnet NormlessBlock=NormFreeBlock NormlessNetwork=NormFreeNetwork
  NormlessResNet=NormFreeResNet
models.norms models.batch_norm reestimated=reestimate_batch_norms has_norms=models.batch_norm:has_batch_norms
models.onnx models.exported.onnx parsed=read_onnx
models.onnx_contents models.exported.inspection shown_onnx=summarize_onnx
models.onnx_lowering models.exported.onnx lowered=lower_for_converter
models.packing models.packing packed=pack unpacked=unpack plain_zeros=with_positive_zeros
models.pickles models.checkpoints.pickle_scan Survey=PickleScan survey=scan_pickle
models.preresnet models.architectures.preresnet
models.program_contents models.exported.inspection ProgramContent=ProgramInspection program_content=inspect_program
models.programs models.exported.loading
models.references models.architectures.uris PythonNetwork=models.architectures.external:PythonNetwork
  architecture=architecture_from_uri
models.resizing models.surgery.width_inference resize_to=resize_like tensors=layer_tensors
  count_channels=update_channel_counts
models.resnet models.architectures.resnet
models.saving models.checkpoints.saving save=save_model load=load_model serialized=models.cost:serialize_weights
  packed_size=models.cost:packed_size
models.selection models.surgery.channel_selection
models.settings models.architectures.base from_settings=models.architectures.settings:from_settings
  to_settings=models.architectures.settings:to_settings
models.shown models.exported.inspection Shown=ProgramSummary
models.surgery models.surgery.channel_removal Part=ChannelSlice
models.thinning models.surgery.width_scaling free_widths=scalable_widths
models.torch_programs models.exported.loading Script=ScriptNetwork load_scripted=load_torchscript
  load_exported=load_torch_export
models.vgg models.architectures.vgg
models.wide models.architectures.wide_resnet
potential thresholds
potential.chance thresholds.threshold
potential.curves thresholds.curves reached=longest_passing_prefix joined=concatenated taken=selected
  marked_any=any_along about=is_test_against verdicts=threshold_arrays
potential.exemplars statistics.exemplars exemplars=pruning_identified_exemplars
potential.family thresholds.familywise holm_ladders=holm_fixed_sequences
potential.seeds thresholds.seeds published=potential_any_over_seeds
potential.summaries thresholds.threshold
potential.threshold thresholds.threshold
potential.tidy thresholds.long_table Axes=TableAxes tabulated=curves_of_table
producers producers register=plugins:register_producer
producers.activations producers.structured.layer_inputs Reader=LayerInputs readers=layer_inputs
producers.allocation producers.unstructured.allocation allotted=masks_by_allocation apportioned=apportion
producers.budget producers.unstructured.sipp Groups=SignGroups samples=optimal_sample_counts expected=expected_kept
producers.channels producers.structured.reconstruction Reading=InputMoments ChannelProducer=ReconstructionProducer
  sum_of=group_contributions
producers.contract producers.base
producers.controls producers.baselines.controls shuffled=shuffle_masks masks_on=masks_for_parent
producers.filters producers.structured.filter_scores FilterProducer=producers.structured.base:FilterProducer
  per_filter=producers.structured.base:per_filter filters=producers.structured.base:filter_weights
  l1=producers.structured.base:l1_norms l2=producers.structured.base:l2_norms scales=batch_norm_scales
  FilterRandom=producers.baselines.random_pruning:FilterRandom
producers.gradual producers.unstructured.gradual started=starting_point Ramp=SparsityRamp Wires=Rewiring
  laplace_center=laplace_mean
producers.initial producers.at_init.scores RandomInit=producers.baselines.random_pruning:RandomInit
producers.lowrank producers.low_rank.decomposition Layer=DecomposableLayer decomposing=decompose_and_retrain
  spectra=layer_spectra equal_error=equal_error_ranks decomposed=decompose factors=factorise
producers.magnitude producers.unstructured.magnitude saliencies=producers.unstructured.base:saliencies
  NM=producers.unstructured.n_m_sparsity:NM
producers.penalties producers.structured.growing_regularisation Brake=GrowthLimit in_turn=chained
  pushing=penalty_hook decorrelating=decorrelation_hook
producers.pfp producers.structured.pfp Sensitivity=ChannelSensitivity sensitivities=channel_sensitivities
  budgets=widths_by_error
producers.preset producers.structured.filter_scores scaled=scaled_widths
producers.regularised producers.structured.growing_regularisation Pushing=GrowingPenalty picked=filters_to_keep
producers.scratch producers.baselines.scratch anew=train_from_new_weights stretched=stretch_recipe
  redraw=redraw_weights
producers.sensitivity producers.sensitivity Sensitivity=WeightSensitivity sensitivities=weight_sensitivities
  scores_of=sensitivity_values
producers.shrinking producers.structured.base Goal=PruningTarget Scoped=ChannelScope shrinking=prune_and_retrain
  groups=removable_groups weight=layer_weight uniform=uniform_widths together=global_widths ranks=rank_channels
  best=top_channels removed=removed_masks
producers.sipp producers.unstructured.sipp everywhere=sample_everywhere where_better=sample_where_better
  resampled=sample_weights grouped=sign_groups
producers.sparse producers.structured.sparse_training norms=batch_norm_names cut_by_scale=remove_by_scale
  proximal=proximal_hooks soft=soft_threshold
producers.thin producers.baselines.thin thinner=thin_network parameters=models.cost:count_parameters
producers.tickets producers.baselines.lottery_tickets
producers.unification producers.unstructured.unification Ties=UnifiedBlocks Multipliers=Admm moves=moves_for_budget
  reached=search_falling blocked=to_blocks joined=from_blocks spread=block_statistics spared=protect_largest
  least=smallest_masks
producers.weights producers.unstructured.base allowed=nonzero_budget room=weight_budget weights_of=prunable_weights
  alive=nonzero_per_layer masks_keeping=masks_for_budget best=global_masks best_in_layers=layerwise_masks
  enforce=apply_masks masks_of=nonzero_masks Magnitude=producers.unstructured.magnitude:Magnitude
  Random=producers.baselines.random_pruning:Random draws=random_scores
publishing report
publishing.attacked execution.attacked_samples
publishing.compared report.build comparison=combined_report_data
publishing.exhibits report.build fairness_table=comparability_table robust=robust_accuracy
publishing.exporting report.export
publishing.labels report.labels labels=report.build:method_labels
publishing.samples report.example_images keep=save_examples is_kept=examples_are_current kept=load_examples
  broken=misclassified_examples changed=corrupted_examples png=datasets.pictures:encode_png
randomness random_streams
records types Status=CellStatus Given=ExternalCandidate
registry registry Entry=RegistryEntry wanted=expectation unknown=unknown_name import_file=import_plugin_file
report.breaking report.breakdown Sheet=DropTable Breaking=Breakdown breaking=breakdown
report.calibration report.reliability Diagram=ReliabilityDiagram diagrams=reliability_diagrams
report.charts report.charts curve=curve_chart robustness=robustness_chart
  scores=score_chart
report.curves report.chart_data
report.details report.threshold_list Entry=ThresholdEntry Line=ThresholdLine Block=ThresholdBlock
  blocks=threshold_blocks
report.excess report.data slopes=headline_rows
report.fairness report.comparability Fairness=Comparability fairness=comparability
  before_and_after=report.diagnostics:retraining_means
report.figures report.figures drawn=rendered
report.findings report.data Picture=types:Picture headline=headline_rows PictureKind=types:PictureKind
report.matrix report.threshold_tables Cell=MatrixCell Matrix=ThresholdMatrix figure=potential_text
report.questions report.threshold_tables Column=MatrixColumn Answer=ColumnResult answer=column_result
report.trust report.diagnostics Doubt=QualityWarning lost=missing_count pending=pending_count
  doubts=quality_warnings facts=record_facts spent=time_spent measured=measured_count
report.verdicts report.threshold_tables singles=single_rows weakest=weakest_row
  known=report.data:present Row=report.data:Row
report.wording report.labels counted=counted_noun subject=metric_on_condition ratios=tested_ratios
report.writing report.page write=write_page
results results.run Run=notebook:Run
results.comparison results.comparison careful=apply_search_correction told_apart=disambiguate_conditions
results.contents runs.plan
results.counting results.ratios on_axis=candidates_on_axis off_curve=places_off_curve notes=off_curve_notes
  identity=candidate_columns axes_of=axes_of_methods
results.crossing results.factorial_comparison recipe_cross=factorial_comparison
results.excess results.tables excess_slopes=excess_table
results.forgetting results.tables forgetting=exemplar_table
results.guessing results.chance_level by_guessing=chance_level chances=chance_levels
results.reliability results.tables reliability=reliability_table
results.retraining results.tables retrainings=retraining_table
running execution
running.acceptance execution.production
running.checking execution.check Question=CheckRequest suite_of=suite_for
  verdicts=results.check_verdicts:verdict_table
running.cluster execution.executors.ray Parcel=TaskMessage Reply=EventMessage Cluster=RayExecutor
running.contract execution.executors.base
running.devices execution.devices
running.executors execution.executors
running.given execution.external_candidates Opened=LoadedModel Intake=ExternalCandidateLoader
running.limits execution.limits out_of_memory=is_out_of_memory
running.local execution.executors.local Worker=WorkerProcess Local=LocalExecutor
running.made execution.tasks Made=ProductionResult LostError=WeightsLostError
running.measuring execution.measuring
running.planned execution.dry_run Line=CostLine
running.preprocessing model_checks
running.production execution.production
running.provenance runs.provenance identity=environment_fingerprint Options=config.options:Options
  data_root=config.options:data_root DATA_VARIABLE=config.options:DATA_VARIABLE
running.runner execution.scheduler Progress=ProgressCallback
running.schedule execution.scheduler
running.searching execution.search
running.serial execution.executors.serial Serial=SerialExecutor
running.status runs.status Status=RunStatus
running.tasks execution.tasks Order=RunContext Open=LoadParent Produce=ProduceCandidate Measure=MeasureCandidate
  Begun=CellStarted Ended=CellFinished Opened=ParentReady Produced=CandidatesReady Lost=WeightsLost Stop=RunAborted
  Died=WorkerDied Finished=TaskFinished Step=CellProgress
running.trainings execution.parent_training Trainings=TrainingInputs
running.worker execution.executors.process
running.workshop execution.worker Workshop=TaskRunner
statistics statistics own_interval=statistics.intervals:marginal_interval
  plan=statistics.sample_size:required_images plan_seeds=statistics.sample_size:required_seeds
statistics.alone statistics.intervals own_interval=marginal_interval
statistics.classes statistics.class_effects
statistics.functionals statistics.replicate_limits of_functional=limits_of_functional Shape=BcaCorrection
statistics.limits statistics.limits of_rates=limits_of_rates of_means=limits_of_means critical=max_t_critical_value
  ordered=order_statistic together=bonferroni_quantile
statistics.medians statistics.intervals
statistics.planning statistics.sample_size plan=required_images plan_seeds=required_seeds
statistics.rates statistics.rates quantile=two_sided_quantile confidence=checked_level
storage runs
storage.digests runs.digests control=runs.plan:independent
storage.files atomic_files sweep=remove_leftovers awaited=wait_for_file
storage.ledger runs.timings Spent=TimeSpent Doing=ActiveTask Ledger=RunTimings
storage.lock runs.lock
storage.sealing runs.serialization json_of=to_json table_of=parse_table sealed=with_checksum
  unsealed=verified_table whole=verify_array
storage.store runs.store
suite config.suite shipped=config.suite_file:shipped_suites find=config.suite_file:find_suite
  load=config.suite_file:load_suite parse=config.suite_file:parse_suite
  assembled=config.suite_file:suite_from_tables
suite.depths config.depths battery=depth_tables
suite.manifest config.manifest manifest=read_manifest named=candidates_of_paths
suite.resources config.suite
suite.values config.suite
tolerances tolerances limit=parse_limit limits=parse_limits applying=limit_for narrowed=restrict_to_measured
  parsed=parse_tolerances
training.batches training.batches Batch=TrainingBatch
training.history training.history remember=set_history
training.loop training.loop Plan=TrainingOptions masked=apply_masks
training.progress training.checkpoint Progress=TrainingCheckpoint
training.recipe training.recipe in_words=describe_schedule
training.recipes training.published_recipes Named=NamedRecipe named=named_recipe merged=merge_recipe
training.state training.state State=TrainingState
"""
"""Per line: an old module below `evalsuite`, the module that took its place, and ``old=new`` for names that changed.

A line goes on in indented lines. A new name that is in another module than the others has that before a colon.
"""


def _parse(table: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Old modules, each with its successor and its renamed names."""
    moved = {}
    for line in table.replace("\n  ", " ").split("\n"):
        if line:
            old, new, *names = line.split()
            renamed = (name.partition("=") for name in names)
            moved[old] = new, {before: after for before, _, after in renamed}
    return moved


MOVED = _parse(_TABLE)


class _MovedModule:
    """A loader of modules that are gone: their attributes are those of the modules that took their place."""

    def create_module(self, _: ModuleSpec) -> ModuleType | None:
        return None  # an ordinary module

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = partial(_moved, module.__name__)


class _MovedNames(SourceFileLoader):
    """A loader of modules that are still there, but some names of which have moved."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        module.__dict__.setdefault("__getattr__", partial(_moved, module.__name__))


class _Finder:
    """A finder of the modules in `MOVED`; all others are left to the finders behind it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        old = name.removeprefix("evalsuite.")
        if old == name or old not in MOVED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None:
            return ModuleSpec(
                name, cast("Any", _MovedModule()), is_package=any(key.startswith(f"{old}.") for key in MOVED)
            )
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _MovedNames(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Lets imports of old modules find the new ones."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _moved(module: str, name: str) -> Any:
    """What the attribute of a module that has moved is now; warns that it has moved."""
    old = module.removeprefix("evalsuite.")
    home, renamed = MOVED[old]
    place, _, new = renamed.get(name, name).rpartition(":")
    place = place or home
    if (place, new) == (old, name) or name.startswith("__"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"evalsuite.{place}"), new)
    except AttributeError:
        raise AttributeError(f"module {module!r} has no attribute {name!r}") from None
    address = _public_address(place, new, value)
    sentence = f"{module}.{name} moved to {address}; the old name stops working with the next release"
    warnings.warn(sentence, DeprecationWarning, stacklevel=2)
    return value


def _public_address(place: str, name: str, value: object) -> str:
    """Where users import `value` from: a public module if one exports it."""
    for public in map(import_module, ("evalsuite.plugins", "evalsuite")):
        if name in public.__all__ and getattr(public, name) is value:
            return f"{public.__name__}.{name}"
    return f"evalsuite.{place}.{name}, which is private and may move again"
