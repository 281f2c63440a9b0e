"""ZetaSQL, Google's reference implementation of BigQuery's dialect, as an oracle."""

from collections.abc import Mapping, Sequence
import ctypes
import datetime
import functools
from typing import Any
import unittest.mock

from wasmtime import Config
from zetasql.api import CatalogBuilder, TableBuilder, create_table_content
from zetasql.core import ZetaSqlLocalService, wasm_client
from zetasql.core.exceptions import ServerError
import zetasql.types as z
from zetasql.wasi._pb2.zetasql.local_service import local_service_pb2 as messages

KINDS = {"INT64": z.TypeKind.TYPE_INT64, "BOOL": z.TypeKind.TYPE_BOOL, "STRING": z.TypeKind.TYPE_STRING}


class Invalid(Exception):
    """BigQuery does not take the query."""


class Failed(Exception):
    """The query ends with an error, such as a division by zero."""


class FastClient(wasm_client.WasmClient):
    """The package copies messages byte by byte."""

    def write_bytes(self, ptr: int, data: bytes) -> None:
        ctypes.memmove(self._address + ptr, data, len(data))

    def read_bytes(self, ptr: int, size: int) -> bytes:
        return ctypes.string_at(self._address + ptr, size)

    @property
    def _address(self) -> int:
        return ctypes.addressof(self.memory.data_ptr().contents)


class CachingConfig(Config):
    """Keeps the compiled module in ~/.cache/wasmtime: 1 s to start instead of 15 s."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = True


@functools.cache
def service() -> ZetaSqlLocalService:
    with unittest.mock.patch.object(wasm_client, "Config", CachingConfig):
        made = ZetaSqlLocalService.get_instance()
    made.wasm_client.__class__ = FastClient
    return made


class Engine:
    """Runs queries on tables in memory.

    Args:
        tables: By their whole name: the columns' names and types, and the rows.
    """

    def __init__(self, tables: Mapping[str, tuple[Mapping[str, str], Sequence[Sequence[Any]]]]) -> None:
        options = service()
        language = z.LanguageOptions.maximum_features()
        language.product_mode = z.ProductMode.PRODUCT_EXTERNAL
        catalog = CatalogBuilder("c").with_builtin_functions(z.ZetaSQLBuiltinFunctionOptions(language_options=language))
        contents = {}
        for name, (columns, rows) in tables.items():
            builder = TableBuilder(name)
            for column, kind in columns.items():
                builder.add_column(column, KINDS[kind])
            catalog.add_table(builder.build())
            contents[name] = create_table_content([list(row) for row in rows])
        self._options = z.AnalyzerOptions(language_options=language, default_timezone="UTC").to_proto()
        registered = options.register_catalog(simple_catalog=catalog.build(), table_content=contents)
        self._catalog = registered.registered_id

    def query(self, sql: str) -> tuple[list[str], list[list[Any]]]:
        """Returns the names of the columns ("" for none) and the rows.

        Raises:
            Invalid, Failed: See there.
        """
        client = service().wasm_client
        request = messages.PrepareQueryRequest(sql=sql, options=self._options, registered_catalog_id=self._catalog)
        try:
            prepared = client.call_grpc_func(
                "ZetaSqlLocalService_PrepareQuery", request, messages.PrepareQueryResponse
            ).prepared
        except ServerError as error:
            raise Invalid(str(error)) from None
        except UnicodeDecodeError as error:  # Its messages may end in the middle of a letter, which only a value has.
            raise Failed(str(error)) from None
        number = prepared.prepared_query_id
        try:
            answer = client.call_grpc_func(
                "ZetaSqlLocalService_EvaluateQuery",
                messages.EvaluateQueryRequest(prepared_query_id=number),
                messages.EvaluateQueryResponse,
            )
        except (ServerError, UnicodeDecodeError) as error:
            raise Failed(str(error)) from None
        finally:
            client.call_grpc_func(
                "ZetaSqlLocalService_UnprepareQuery", messages.UnprepareQueryRequest(prepared_query_id=number)
            )
        kinds = [column.type for column in prepared.columns]
        rows = [
            [to_python(cell, kind) for cell, kind in zip(row.cell, kinds, strict=True)]
            for row in answer.content.table_data.row
        ]
        for row in rows:  # BigQuery's results have no NULL for an array, nor in it; ZetaSQL's have.
            for index, kind in enumerate(kinds):
                if kind.type_kind == z.TypeKind.TYPE_ARRAY:
                    row[index] = row[index] or []
                    if None in row[index]:
                        raise Failed("NULL in an array of the result")
        return [column.name for column in prepared.columns], rows


def to_python(value: Any, kind: Any) -> Any:
    """Returns what the client of BigQuery makes of a value."""
    which = value.WhichOneof("value")
    if which is None:
        return None
    found = getattr(value, which)
    if which == "array_value":
        return [to_python(element, kind.array_type.element_type) for element in found.element]
    if which == "struct_value":
        fields = kind.struct_type.field
        return {
            field.field_name: to_python(one, field.field_type) for one, field in zip(found.field, fields, strict=True)
        }
    if which == "date_value":
        return datetime.date(1970, 1, 1) + datetime.timedelta(found)
    return found
