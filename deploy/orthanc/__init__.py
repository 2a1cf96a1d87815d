"""A private Orthanc, the PACS of the demo and of the tests."""
