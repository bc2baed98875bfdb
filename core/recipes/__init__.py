"""Published methods as values, run by one function; and the ladder of repairs for a plan."""

from core.recipes.book import RECIPES as RECIPES
from core.recipes.book import Recipe as Recipe
from core.recipes.book import list_recipes as list_recipes
from core.recipes.job import Built as Built
from core.recipes.job import Unfinished as Unfinished
from core.recipes.ladder import RUNGS as RUNGS
from core.recipes.ladder import Rung as Rung
from core.recipes.ladder import climb_ladder as climb_ladder
from core.recipes.loops import LOOPS as LOOPS
from core.recipes.run import Outcome as Outcome
from core.recipes.run import run_recipe as run_recipe
