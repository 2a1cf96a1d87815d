"""What of an object passes the door, attribute by attribute; whatever is not named here is removed.

PS3.15, table E.1-1 (Basic Application Level Confidentiality Profile) says what must go. This table says what may stay,
and is never more lenient: attributes that the standard does not know, retired ones, overlays and curves need no row to
be removed. tests/unit/dicom/door/test_dicom_profile_table.py holds it against the standard's own. Names are keywords
(PS3.6).

Only attributes stay that volumes and labels are built from. What tells a series' modality (descriptions, sequence,
contrast agent) is taken down as `roles.Facts` before, and does not pass.
"""

from __future__ import annotations


def _split_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMBERS = _split_words(
    """
    Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel PlanarConfiguration NumberOfFrames
    PixelAspectRatio PixelSpacing ImagerPixelSpacing NominalScannedPixelSpacing SliceThickness SpacingBetweenSlices
    SliceLocation ImagePositionPatient ImageOrientationPatient GantryDetectorTilt PixelPaddingValue
    PixelPaddingRangeLimit RescaleSlope RescaleIntercept WindowCenter WindowWidth RealWorldValueSlope
    RealWorldValueIntercept RealWorldValueFirstValueMapped RealWorldValueLastValueMapped
    DoubleFloatRealWorldValueFirstValueMapped DoubleFloatRealWorldValueLastValueMapped
    ImagesInAcquisition AcquisitionNumber InstanceNumber SeriesNumber TemporalPositionIdentifier
    NumberOfTemporalPositions TemporalResolution TemporalPositionIndex TemporalPositionTimeOffset
    InConcatenationNumber InConcatenationTotalNumber ConcatenationFrameOffsetNumber
    InStackPositionNumber FrameAcquisitionNumber DimensionIndexValues DimensionIndexPointer FunctionalGroupPointer
    NumberOfSlices NumberOfTimeSlices NumberOfTimeSlots ImageIndex TriggerTime NominalCardiacTriggerDelayTime
    FrameAcquisitionDuration
    EchoTime EchoNumbers EffectiveEchoTime RepetitionTime InversionTime InversionTimes FlipAngle EchoTrainLength
    MagneticFieldStrength NumberOfAverages NumberOfPhaseEncodingSteps PixelBandwidth
    DiffusionBValue DiffusionGradientOrientation
    MaximumFractionalValue SegmentNumber ReferencedSegmentNumber ReferencedFrameNumber RecommendedDisplayCIELabValue
    ROINumber ReferencedROINumber ObservationNumber NumberOfContourPoints ContourData ContourNumber ContourSlabThickness
    ContourOffsetVector AttachedContours
    """
)
"""Numbers stay if they read as numbers: DS, IS, FD, FL, US, SS, UL, SL, AT."""
ESSENTIAL = frozenset({"RescaleSlope", "RescaleIntercept", "NumberOfFrames", "MaximumFractionalValue"})
"""Without these pixels would mean something else: what is said there and cannot be read is no reason to guess."""

WORDS = _split_words(
    """
    Modality ImageType FrameType PhotometricInterpretation PatientPosition PatientOrientation PresentationLUTShape
    PixelIntensityRelationship LossyImageCompression BurnedInAnnotation RecognizableVisualFeatures
    MRAcquisitionType ScanningSequence SequenceVariant ScanOptions
    AcquisitionContrast ComplexImageComponent PixelPresentation VolumetricProperties VolumeBasedCalculationTechnique
    ContentQualification DiffusionDirectionality DiffusionAnisotropyType InPlanePhaseEncodingDirection
    DimensionOrganizationType RescaleType SpatialLocationsPreserved
    SegmentationType SegmentationFractionalType SegmentsOverlap SegmentAlgorithmType ROIGenerationAlgorithm
    ContourGeometricType RTROIInterpretedType Units DecayCorrection CorrectedImage SeriesType RandomsCorrectionMethod
    """
)
"""Words stay if they are among `VOCABULARY`; another becomes a keyed token, so that what differed still differs."""

TOKENS = frozenset({"StackID"})
"""Short names that only tell one thing from another: up to three digits stay, anything else becomes a keyed token."""

UIDS = _split_words(
    """
    SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID
    SynchronizationFrameOfReferenceUID ReferencedSOPClassUID ReferencedSOPInstanceUID ReferencedFrameOfReferenceUID
    RelatedFrameOfReferenceUID DimensionOrganizationUID ConcatenationUID SOPInstanceUIDOfConcatenationSource TrackingUID
    """
)
"""UIDs become pseudonyms; registered ones stay."""

SEQUENCES = _split_words(
    """
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence FrameContentSequence PlanePositionSequence
    PlaneOrientationSequence PixelMeasuresSequence PixelValueTransformationSequence FrameVOILUTSequence
    RealWorldValueMappingSequence MRImageFrameTypeSequence CTImageFrameTypeSequence PETFrameTypeSequence
    MREchoSequence MRTimingAndRelatedParametersSequence MRDiffusionSequence DiffusionGradientDirectionSequence
    MRModifierSequence MRFOVGeometrySequence TemporalPositionSequence CardiacSynchronizationSequence
    ConversionSourceAttributesSequence
    DimensionOrganizationSequence DimensionIndexSequence DerivationImageSequence SourceImageSequence
    ReferencedImageSequence ReferencedSeriesSequence ReferencedInstanceSequence
    StudiesContainingOtherReferencedInstancesSequence SourceImageEvidenceSequence ReferencedImageEvidenceSequence
    SegmentSequence SegmentIdentificationSequence
    ReferencedFrameOfReferenceSequence RTReferencedStudySequence RTReferencedSeriesSequence ContourImageSequence
    StructureSetROISequence ROIContourSequence ContourSequence RTROIObservationsSequence
    """
)
"""Sequences whose items are cleaned by this same table."""

CODES = _split_words(
    """
    SegmentedPropertyCategoryCodeSequence SegmentedPropertyTypeCodeSequence SegmentedPropertyTypeModifierCodeSequence
    AnatomicRegionSequence AnatomicRegionModifierSequence PrimaryAnatomicStructureSequence
    PrimaryAnatomicStructureModifierSequence RTROIIdentificationCodeSequence
    DerivationCodeSequence PurposeOfReferenceCodeSequence MeasurementUnitsCodeSequence
    """
)
"""Coded concepts stay if the operator's labels or DICOM's own context groups (PS3.16) name them; see `codes`."""

LABELS = frozenset({"SegmentLabel", "ROIName"})
"""Names of segments and structures stay where they are names that the operator's labels give, else they are emptied."""

EMPTY = _split_words(
    """
    PatientName PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber ReferringPhysicianName
    """
)
"""Type 2 in every composite object (PS3.3, C.7): there, and empty (action Z)."""

DERIVED = _split_words(
    """
    SpecificCharacterSet PatientID PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence
    LongitudinalTemporalInformationModified Manufacturer PixelData
    """
)
"""Written by `profile` itself: a pseudonym, what was done, a maker out of `MAKERS`, the pixels and nothing beside."""

PRIVATE = {(0x0019, "SIEMENS MR HEADER"): {0x0C: "IS", 0x0E: "FD"}}
"""Private numbers that volumes need: (group, creator) → element → VR: b-value and its direction. And see `mosaic`."""

MAKERS = {
    "SIEMENS": "SIEMENS",
    "GE MEDICAL": "GE MEDICAL SYSTEMS",
    "PHILIPS": "Philips",
    "TOSHIBA": "TOSHIBA",
    "CANON": "CANON",
    "HITACHI": "HITACHI",
    "UIH": "UIH",
    "BRUKER": "Bruker",
}
"""Beginning of Manufacturer in capitals → what stays of it: how an object is read depends on who made it."""

METHODS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113105", "Clean Descriptors Option"),
)
"""De-identification Method Code Sequence (0012,0064), of PS3.16, CID 7050.

Descriptors are cleaned in so far as names that the operator's labels give, and meanings of codes that DICOM knows, are
written anew. Not among them: 113101 Clean Pixel Data (what may have text burned in is refused instead), 113102 Clean
Recognizable Visual Features (a head shows a face, so what is prepared stays at the site), 113103 and 113104 (graphics
and structured content are removed, not cleaned), 113106 to 113110 and 113112 (neither dates nor UIDs, nor what is said
of patient, device and institution, are retained).
"""
SAFE_PRIVATE = ("113111", "Retain Safe Private Option")
"""Also used where numbers of `PRIVATE`, or those that lay out a mosaic, are kept: private elements alone say them."""

LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
"""Label Map Segmentation Storage (2024d): pydicom's dictionary does not know it yet."""
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
SCREENS = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary Capture Image Storage; its multi-frame siblings have one more component."""
KINDS = {
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "Legacy Converted Enhanced MR",
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.128": "PET",
    "1.2.840.10008.5.1.4.1.1.130": "Enhanced PET",
    "1.2.840.10008.5.1.4.1.1.128.1": "Legacy Converted Enhanced PET",
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    LABEL_MAP: "Label Map Segmentation",
    STRUCTURES: "RT Structure Set",
}
"""SOP classes that pass at all (PS3.4, B.5): images of volumes, and labels. No report, no document, no screen."""

VOCABULARY = _split_words(
    """
    MR CT PT SEG RTSTRUCT ORIGINAL DERIVED PRIMARY SECONDARY OTHER NONE MIXED M P R I A MAGNITUDE PHASE REAL IMAGINARY
    M_SE M_FFE M_IR M_PCA M_B0 M_B1 R_SE R_FFE R_IR P_SE P_FFE P_IR I_SE I_FFE I_IR PCA VELOCITY T1 T2 T2* FLAIR STIR
    T1MAP T2MAP T2*MAP PROTON_DENSITY ADC FA TRACEW TRACE TENSOR EADC EXP ISO DIFFUSION DIFFUSION_ANISO DTI PERFUSION
    FMRI TTP CBV CBF MTT RCBV RCBF RMTT TMAX PBP PEI REFORMATTED MPR MIP MINIP MIN_IP MEAN MAX_IP AVERAGE SUB
    SUBTRACTION ADD DIVISION PROJECTION VOLUME RESAMPLED UNSPECIFIED LOCALIZER AXIAL SAGITTAL CORONAL OBLIQUE MOSAIC
    ND NORM DIS2D DIS3D DIS3D1 DIS2D1 FM FIL FILTERED SWI MNIP CSA COMPOSED PROPELLER EPI FSE SPIN_ECHO GRADIENT_ECHO
    SE IR GR EP RM ASL TOF PC MRA MRS WATER FAT IN_PHASE OUT_PHASE OPP_PHASE W F IP OP MPRAGE INV1 INV2 UNI DEN
    UNIFORM IMAGE ADDITION MFSPLIT STDDEV T_TEST MOCO ANGIO_TIME SPIN_TAGGING TAGGING FLOW_ENCODED FLUID_ATTENUATED
    PROTON DENSITY TEMPERATURE CONTRAST_AGENT BOLD LABEL CONTROL HFS HFP HFDR HFDL FFS FFP FFDR FFDL LFP LFS RFP RFS
    AFDR AFDL PFDR PFDL L H LA LP LH LF RA RP RH RF AL AR AH AF PL PR PH PF HL HR HA HP FL FR MONOCHROME1 MONOCHROME2
    IDENTITY INVERSE LIN LOG DISP 00 01 YES NO 2D 3D SK MTC SS TRSS SP MP OSP PER RG CG PPG FC PFF PFP FS SFS ACC_GEMS
    FAST_GEMS EDR_GEMS EPI_GEMS FILTERED_GEMS PAR SAT1 SAT2 TRF_GEMS VB_GEMS VASCTOF_GEMS MP_GEMS NPW IRP IFS
    MONOCHROME COLOR MIXED_COLOR TRUE_COLOR SAMPLED DISTORTED MAX_VALUE MIN_VALUE MEDIAN MULTIPLANAR VOLUME_RENDER
    SURFACE_RENDER CURVED_MPR PRODUCT RESEARCH SERVICE DIRECTIONAL BMATRIX ISOTROPIC FRACTIONAL RELATIVE VOLUME_RATIO
    ROW COLUMN COL TILED_FULL TILED_SPARSE HU US OD MGML PCT HU_MOD US_MOD Z_EFF ED EDW REORIENTED_ONLY RIGID_COREG
    AFFINE BINARY LABELMAP PROBABILITY OCCUPANCY UNDEFINED AUTOMATIC SEMIAUTOMATIC MANUAL POINT OPEN_PLANAR
    OPEN_NONPLANAR CLOSED_PLANAR CLOSEDPLANAR_XOR EXTERNAL PTV CTV GTV TREATED_VOLUME IRRAD_VOLUME BOLUS AVOIDANCE
    ORGAN MARKER REGISTRATION ISOCENTER CAVITY BRACHY_CHANNEL BRACHY_ACCESSORY BRACHY_SRC_APP BRACHY_CHNL_SHLD SUPPORT
    FIXATION DOSE_REGION DOSE_MEASUREMENT DEVICE STATIC DYNAMIC GATED WHOLE BODY BQML CNTS ADMIN START DECY ATTN SCAT
    DTIM MOTN PMOT CLN RAN RADL DCAL NORMALIZED REPROJECTION SINGLES DLYD ECHO_00 ECHO_01 ECHO_02 ECHO_03 OUTPUT
    """
) | {"PROJECTION IMAGE", "WHOLE BODY", "PALETTE COLOR"}
"""Defined terms of the attributes of `WORDS` (PS3.3), and words that makers put into Image Type."""
